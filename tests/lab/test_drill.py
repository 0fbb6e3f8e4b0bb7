"""A drill on real hosts with a real model: what is killed is found, healed, and answers again.

CLUSTERCTL_CAMPAIGN=1 kills more than a worker.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.lab import faults
from cluster.lab.spec import Lab
from tests.reallab import clusterctl, docker, reason_to_skip, running_lab, write_inventory

SKIP = reason_to_skip(engine=True, serves=True)
pytestmark = pytest.mark.skipif(bool(SKIP), reason=SKIP or "never")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab("j", 2) as made:
        yield made


@pytest.fixture(scope="module")
def serving(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def quick(content: dict[str, Any]) -> None:
        content["watch"] = {"interval": 2, "wedged_after": 60}

    inventory = write_inventory(lab, tmp_path_factory.mktemp("drill") / "lab.yaml", quick)
    done = clusterctl("up", inventory)
    assert done.returncode == 0, done.stderr
    return inventory


ALL = os.environ.get("CLUSTERCTL_CAMPAIGN") == "1"


@pytest.mark.parametrize(("kill", "node"), [("worker", 1), *([("engine", 0), ("server", 0)] if ALL else [])])
def test_what_is_killed_is_found_and_serves_again(lab: Lab, serving: Path, kill: str, node: int) -> None:
    done = clusterctl("drill", serving, "--kill", kill, "--json", timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    drill = events[-1]
    print(json.dumps(drill))
    assert (drill["event"], drill["kill"], drill["node"]) == ("drill", kill, lab.hosts[node].name)
    assert drill["serves"]
    assert drill["found"].startswith("dead: ")
    assert 0 < drill["seconds_to_detect"] < drill["seconds_to_serve_again"]
    asked = drill["requests"]
    assert asked["lost"] > 0
    assert asked["answered"] >= 6
    assert asked["sent"] == asked["answered"] + asked["lost"]
    assert clusterctl("status", serving).returncode == 0


def test_a_reboot_of_a_node_that_serves_is_drift(lab: Lab, serving: Path) -> None:
    """And nothing comes back by itself: a worker alone is of no use."""
    worker = lab.hosts[1]
    assert clusterctl("diff", serving).returncode == 0
    faults.inject(lab, worker.name, "reboot")
    assert docker(worker, "ps", "--quiet") == ""
    drifted = clusterctl("diff", serving)
    assert drifted.returncode == 2, drifted.stderr
    assert "reboot" in drifted.stdout
    assert worker.name in drifted.stdout
    assert clusterctl("status", serving).returncode == 1
