"""What is kept of a generation: `record.json` never changes, `outcome.json` says what became of it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

State = Literal["starting", "serving", "failed", "superseded", "stopped"]
STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True)
class Generation:
    """`digest` names what it starts, `inventory` is the text that it was made from, without any secret.

    `at` is a moment in UTC (2026-11-21T05:24:26Z), `by` is user@host, `quarantined` the nodes that were not
    to be used, in the order in which they fell out.
    """

    number: int
    digest: str
    inventory: str
    at: str
    by: str
    version: str
    quarantined: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """`serial` grows with every outcome that is written, of any generation: the highest is the latest.

    Clocks are not compared, every operator has another. `served` stays true once it answered, and `baseline`
    is what ran on this node then, see drift.py.
    """

    state: State
    at: str = ""
    serial: int = 0
    reason: str = ""
    digest: str = ""
    served: bool = False
    baseline: Mapping[str, Any] = field(default_factory=dict)


def record_text(generation: Generation) -> str:
    """The content of record.json."""
    return json.dumps(asdict(generation), ensure_ascii=False, indent=1) + "\n"


def outcome_text(outcome: Outcome) -> str:
    """The content of outcome.json."""
    return json.dumps(asdict(outcome), ensure_ascii=False, indent=1) + "\n"


def read_record(text: str) -> Generation | None:
    """None for a file that is cut off, or that nothing can be made of."""
    content = _mapping(text)
    try:
        return Generation(
            number=int(content["number"]),
            digest=str(content["digest"]),
            inventory=str(content["inventory"]),
            at=str(content.get("at", "")),
            by=str(content.get("by", "")),
            version=str(content.get("version", "")),
            quarantined=tuple(str(name) for name in content.get("quarantined", ())),
        )
    except (KeyError, TypeError, ValueError):
        return None


def read_outcome(text: str) -> Outcome | None:
    """None for a file that is cut off, or of a state that there is not."""
    content = _mapping(text)
    state, serial, baseline = content.get("state"), content.get("serial", 0), content.get("baseline", {})
    if state not in STATES or not isinstance(serial, int) or not isinstance(baseline, dict):
        return None
    words = {key: str(content.get(key, "")) for key in ("at", "reason", "digest")}
    return Outcome(state, serial=serial, served=content.get("served") is True, baseline=baseline, **words)


def _mapping(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
