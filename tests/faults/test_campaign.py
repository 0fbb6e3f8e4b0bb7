"""Whatever breaks at whichever effect of a command, one more command makes the cluster whole, or clean."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from scenarios import SCENARIOS, Scenario, beginning_of, complaints, faults_of, new_world

ALL = os.environ.get("CLUSTERCTL_CAMPAIGN") == "1"
SAMPLE = 20  # of a scenario's faults, each with one command after it; always the same ones


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_one_more_command_makes_it_whole(
    scenario: Scenario, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    world = new_world(tmp_path)
    beginning = beginning_of(scenario, world)
    cases = [(fault, then) for fault in faults_of(scenario, world, beginning) for then in scenario.then]
    count: Counter[str] = Counter()
    lost = []
    for fault, then in cases if ALL else Random(scenario.name).sample(cases, SAMPLE):
        wrong = complaints(scenario, world, beginning, fault, then)
        if wrong is None:
            continue
        count["injected"] += 1
        count["survived"] += not wrong
        if wrong:
            lost.append(f"{fault}; then {then}: {'; '.join(wrong)}")
    record_property("faults", (scenario.name, count["injected"], count["survived"]))
    assert count["injected"] > SAMPLE // 2
    assert not lost, f"{len(lost)} of {count['injected']}:\n" + "\n".join(lost[:10])
