"""Healing on real hosts with real Ray and vLLM: a node that is gone, that comes back, that was killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.lab import faults
from cluster.lab.spec import Host, Lab
from tests.lab.test_serving import ask, bring_up, status
from tests.reallab import clusterctl, docker, reason_to_skip, running_lab, write_inventory

SKIP = reason_to_skip(engine=True, serves=True)
pytestmark = pytest.mark.skipif(bool(SKIP), reason=SKIP or "never")


def the_third_is_a_spare(content: dict[str, Any]) -> None:
    content["nodes"][2]["spare"] = True
    content["ssh"] = {**content.get("ssh", {}), "connect_timeout": 5.0}


def heal(file: Path) -> list[dict[str, Any]]:
    """`heal --json`, which has to end well; its events."""
    done = clusterctl("heal", file, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def running(target: Host) -> list[str]:
    return docker(target, "ps", "--format", "{{.Names}}").split()


def test_a_node_that_is_gone_is_replaced_and_all_ranks_restart_together(tmp_path: Path) -> None:
    with running_lab("h", nodes=3) as lab:
        file = write_inventory(lab, tmp_path / "lab.yaml", the_third_is_a_spare)
        bring_up(file)
        assert "Paris" in ask(lab)
        assert running(lab.hosts[2]) == []
        assert [event["event"] for event in heal(file)] == ["nothing_to_do"]

        the_worker_vanishes(lab, file)
        it_comes_back_and_has_no_part(lab, file)
        the_spare_is_killed(lab, file)

        assert clusterctl("down", "--yes", file).returncode == 0
        assert [docker(one, "ps", "--all", "--quiet") for one in lab.hosts] == ["", "", ""]
        assert status(file)[1]["state"] == "down"


def the_worker_vanishes(lab: Lab, file: Path) -> None:
    """Its cable is out: neither the operator nor Ray reaches it, and the spare has its place."""
    head, worker, spare = lab.hosts
    faults.inject(lab, worker.name, "link-down")
    events = heal(file)
    print(f"replaced and serving again after {events[-1]['seconds']} s of heal")
    assert events[-1]["event"] == "healed"
    assert events[-1]["replaced"] == {worker.name: spare.name}
    assert "Paris" in ask(lab)
    code, found = status(file)
    assert (code, found["state"]) == (0, "serving")
    assert [node["name"] for node in found["nodes"]] == [head.name, spare.name]
    assert found["quarantined"][0]["name"] == worker.name
    assert found["quarantined"][0]["reason"].startswith("gone: ")


def it_comes_back_and_has_no_part(lab: Lab, file: Path) -> None:
    """Its Ray still runs when its cable is in again: it joins nobody, and the next `up` removes it."""
    worker = lab.hosts[1]
    faults.clear(lab, worker.name)
    code, found = status(file)
    assert (code, found["ray"]["nodes_alive"]) == (0, 2)
    events = bring_up(file)
    assert "Start vLLM" not in [event.get("phase") for event in events]
    assert docker(worker, "ps", "--all", "--quiet") == ""
    assert "Paris" in ask(lab)
    assert [event["event"] for event in heal(file)] == ["nothing_to_do"]


def the_spare_is_killed(lab: Lab, file: Path) -> None:
    """Nobody is left to replace it, and nobody has to: it is started again, with all other ranks."""
    head, _, spare = lab.hosts
    docker(spare, "kill", "--signal", "KILL", f"clusterctl-{lab.name}-ray")
    before = docker(head, "ps", "--quiet").split()
    events = heal(file)
    print(f"restarted and serving again after {events[-1]['seconds']} s of heal")
    (cause,) = [event for event in events if event["event"] == "cause"]
    assert cause["node"] == spare.name
    assert cause["why"][0] == f"{spare.name}: the ray container exited with code 137"
    assert events[-1]["replaced"] == {}
    assert not set(before) & set(docker(head, "ps", "--quiet").split())
    assert "Paris" in ask(lab)
