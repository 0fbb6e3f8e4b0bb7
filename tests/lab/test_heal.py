"""Healing on real hosts with real Ray and vLLM: a worker that is gone and comes back, a head that is gone."""

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


def test_nodes_that_are_gone_are_replaced_and_all_ranks_restart_together(tmp_path: Path) -> None:
    with running_lab("h", nodes=3) as lab:
        file = write_inventory(lab, tmp_path / "lab.yaml", the_third_is_a_spare)
        bring_up(file)
        assert "Paris" in ask(lab)
        assert running(lab.hosts[2]) == []
        assert [event["event"] for event in heal(file)] == ["nothing_to_do"]

        the_worker_vanishes(lab, file)
        it_comes_back_and_has_no_part(lab, file)
        it_is_mended_and_stands_by(lab, file)
        the_head_vanishes(lab, file)

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


def it_is_mended_and_stands_by(lab: Lab, file: Path) -> None:
    """Nothing is restarted for it: the one that took its place keeps it."""
    worker = lab.hosts[1]
    before = docker(lab.hosts[0], "ps", "--quiet")
    assert clusterctl("quarantine", file, "--release", worker.name).returncode == 0
    assert [event["event"] for event in bring_up(file)] == ["nothing_to_do"]
    assert docker(lab.hosts[0], "ps", "--quiet") == before
    spares = status(file)[1]["spares"]
    assert {one["name"]: one["state"] for one in spares} == {
        worker.name: "standing by",
        lab.hosts[2].name: "in use",
    }


def the_head_vanishes(lab: Lab, file: Path) -> None:
    """The mended node takes its place, and its part: the model answers at another address."""
    head, mended, spare = lab.hosts
    faults.inject(lab, head.name, "link-down")
    events = heal(file)
    print(f"the head replaced and serving again after {events[-1]['seconds']} s of heal")
    assert events[-1]["replaced"] == {head.name: mended.name}
    assert events[-1]["url"] == f"http://{mended.address}:8000"
    assert "Paris" in ask(lab, mended)
    code, found = status(file)
    assert code == 0
    assert [(node["name"], node["role"]) for node in found["nodes"]] == [
        (mended.name, "head"),
        (spare.name, "worker"),
    ]
    faults.clear(lab, head.name)
