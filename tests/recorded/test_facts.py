"""Real output of real machines, and what should have been understood from it: a new case is a new file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.facts import Facts, containers, gpu, inside, node, processes, rdma, service, system
from cluster.steps import Result

CASES = sorted((Path(__file__).parent / "facts").glob("*.yaml"))


def parser(name: str) -> Callable[[Result], dict[str, Any]]:
    return next(
        getattr(module, name)
        for module in (containers, processes, inside, node, gpu, rdma, system, service)
        if hasattr(module, name)
    )


def plain(value: Any) -> Any:
    """A fact as YAML writes it."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    return [plain(inner) for inner in value] if isinstance(value, tuple | list) else value


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_what_was_understood(case: Path) -> None:
    recorded = yaml.safe_load(case.read_text())
    result = Result(recorded["exit_code"], recorded["output"], "")
    found = parser(recorded["parser"])(result)
    assert plain(found) == recorded["fact"]
    assert Facts(**found)


def test_every_case_says_where_it_comes_from() -> None:
    assert CASES
    for case in CASES:
        recorded = yaml.safe_load(case.read_text())
        assert set(recorded) == {"of", "command", "parser", "exit_code", "output", "fact"}, case.name
