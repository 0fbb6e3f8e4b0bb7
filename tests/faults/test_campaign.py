"""Whatever breaks at whichever effect of a command, one more command makes the cluster whole, or clean."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from scenarios import SCENARIOS, Scenario, beginning_of, complaints, faults_of, new_world

ALL = os.environ.get("CLUSTERCTL_CAMPAIGN") == "1"
EVERY = int(os.environ.get("EVERY", 1 if ALL else 13))  # of all faults with all commands after them


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_one_more_command_makes_it_whole(
    scenario: Scenario, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    world = new_world(tmp_path)
    beginning = beginning_of(scenario, world)
    cases = [(fault, then) for fault in faults_of(scenario, world, beginning) for then in scenario.then]
    count: Counter[str] = Counter()
    lost = []
    for fault, then in cases[::EVERY]:
        broken = complaints(scenario, world, beginning, fault, then)
        if broken is None:
            continue
        count["injected"] += 1
        count["survived"] += not broken
        if broken:
            lost.append(f"{fault}; then {then}: {'; '.join(broken)}")
    record_property("faults", (scenario.name, count["injected"], count["survived"]))
    assert count["injected"] > 10
    assert not lost, f"{len(lost)} of {count['injected']}:\n" + "\n".join(lost[:10])
