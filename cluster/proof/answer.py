"""The one JSON object that a program on a node has answered, understood. Pure."""

from __future__ import annotations

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from cluster.steps import Outcome

T = TypeVar("T")


def understood(outcome: Outcome, reader: TypeAdapter[T], program: str) -> T | str:
    """The last line of a node's answer, or why there is none. Never raises."""
    if isinstance(outcome, str):
        return outcome
    if outcome.exit_code != 0:
        return outcome.reason
    lines = outcome.stdout.strip().splitlines()
    try:
        return reader.validate_json(lines[-1] if lines else "")
    except ValidationError:
        return f"no answer of {program}: {outcome.reason[:200]}"
