"""The campaign finds what it is there for: with a rule left out of clusterctl, some point is not survived."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from campaign import Fault
from scenarios import SCENARIOS, Scenario, Then, beginning_of, complaints, faults_of, new_world

from cluster import folder, phases
from cluster.journal import Journal
from cluster.standing import Standing

Break = Callable[[pytest.MonkeyPatch], None]


def only_what_runs_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that was created and never started stays."""
    remove = phases._remove

    def forgetful(plan: Any, containers: Any) -> Any:
        return remove(
            plan, {name: tuple(c for c in found if c.running) for name, found in containers.items()}
        )

    monkeypatch.setattr(phases, "_remove", forgetful)


def files_of_a_killed_writer_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "_strays", lambda *_: [])


def a_server_is_taken_for_current(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs counts, by whatever spec it was started."""
    standing = phases.standing

    def credulous(plan: Any, facts: Any, secrets: Any) -> Standing:
        now = standing(plan, facts, secrets)
        running = frozenset(m.name for m in plan.members if facts[m.name].runs("ray"))
        whole = running == {member.name for member in plan.members}
        return Standing(running, now.serving, now.answered, {}) if whole else now

    monkeypatch.setattr(phases, "standing", credulous)


def nobody_notes_that_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "serves", lambda *_: None)


@pytest.mark.parametrize(
    ("name", "broken", "every"),
    [
        ("down", only_what_runs_is_removed, 1),
        ("up", only_what_runs_is_removed, 1),
        ("up", files_of_a_killed_writer_stay, 3),
        ("changed up: an image", a_server_is_taken_for_current, 7),
        ("changed up: a flag", nobody_notes_that_it_serves, 7),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_rule_that_is_left_out_is_missed(
    name: str, broken: Break, every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario: Scenario = next(one for one in SCENARIOS if one.name == name)
    world = new_world(tmp_path)
    beginning = beginning_of(scenario, world)
    faults = faults_of(scenario, world, beginning)
    half = [fault for fault in faults if fault.kind == "killed half-way"]
    cases = [(fault, then) for fault in (*half, *faults)[::every] for then in scenario.then]

    def wrong(fault: Fault, then: Then) -> bool:
        with monkeypatch.context() as patch:
            broken(patch)
            return bool(complaints(scenario, world, beginning, fault, then))

    assert any(wrong(*case) and not complaints(scenario, world, beginning, *case) for case in cases)
