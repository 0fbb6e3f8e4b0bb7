"""After a reboot nothing starts by itself, `status` says what is missing, and `up` brings all of it back.

No model is loaded: `network.require` asks for InfiniBand, so `up` ends at its gate, with Ray joined.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConnectError, PhaseError
from cluster.lab import faults, host
from cluster.lab.spec import Host, Lab
from tests.reallab import clusterctl, docker, reason_to_skip, running_lab, write_inventory

SKIP = reason_to_skip(engine=True, serves=True)
pytestmark = pytest.mark.skipif(bool(SKIP), reason=SKIP or "never")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab("b", 2) as made:
        yield made


@pytest.fixture(scope="module")
def inventory(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def require(content: dict[str, Any]) -> None:
        content["network"]["require"] = "ib"

    return write_inventory(lab, tmp_path_factory.mktemp("reboot") / "lab.yaml", require)


def bring_up(inventory: Path) -> None:
    """As far as the gate."""
    done = clusterctl("up", inventory)
    assert done.returncode == PhaseError.exit_code, done.stderr
    assert "[transport-not-required]" in done.stderr or "network.require" in done.stderr, done.stderr


def status(inventory: Path) -> dict[str, Any]:
    return dict(json.loads(clusterctl("status", inventory, "--json").stdout))


def running(target: Host) -> list[str]:
    return docker(target, "ps", "--format", "{{.Names}}").split()


def states(found: dict[str, Any]) -> list[str]:
    return [node["state"] for node in found["nodes"]]


@pytest.fixture(scope="module")
def joined(inventory: Path) -> Path:
    """Ray runs on both nodes; each test leaves it so."""
    bring_up(inventory)
    return inventory


def test_after_a_reboot_of_a_worker(lab: Lab, joined: Path) -> None:
    inventory = joined
    head, worker = lab.hosts
    assert states(status(inventory)) == ["joined", "joined"]
    ray = running(worker)
    faults.inject(lab, worker.name, "reboot")
    assert (running(head), running(worker)) == (ray, [])
    found = status(inventory)
    assert states(found) == ["joined", "exited"]
    assert any(sentence.startswith(f"{worker.name}: ") for sentence in found["missing"]), found["missing"]
    bring_up(inventory)
    assert states(status(inventory)) == ["joined", "joined"]
    assert (running(head), running(worker)) == (ray, ray)


def test_after_a_reboot_of_all_nodes(lab: Lab, joined: Path) -> None:
    inventory = joined
    for target in lab.hosts:
        faults.inject(lab, target.name, "reboot")
    assert [running(target) for target in lab.hosts] == [[], []]
    assert states(status(inventory)) == ["exited", "exited"]
    bring_up(inventory)
    assert states(status(inventory)) == ["joined", "joined"]


def test_up_without_a_node_changes_nothing_and_down_cleans_after_a_reboot(lab: Lab, joined: Path) -> None:
    inventory = joined
    head, worker = lab.hosts
    before = running(head)
    faults.inject(lab, worker.name, "power-off")
    failed = clusterctl("up", inventory)
    assert failed.returncode == ConnectError.exit_code, failed.stderr
    assert worker.name in failed.stderr
    assert running(head) == before
    faults.clear(lab, worker.name)
    faults.inject(lab, head.name, "reboot")
    assert clusterctl("down", "--yes", inventory).returncode == 0
    assert [docker(target, "ps", "--all", "--quiet") for target in lab.hosts] == ["", ""]
    assert host.run(head, "ls", "/root/.clusterctl").returncode != 0
