"""The proof of the network on real hosts: what is measured, what is named, and that nothing of it is left."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from cluster.lab import host
from cluster.lab.spec import Host, Lab
from tests.reallab import clusterctl, clusterctl_running, docker, reason_to_skip, running_lab, write_inventory

SKIP = reason_to_skip(engine=True, serves=True)
pytestmark = pytest.mark.skipif(bool(SKIP), reason=SKIP or "never")

PHASE = "Prove the network"
PORT = 29511


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab("v", nodes=3) as lab:
        yield lab


def inventory(lab: Lab, file: Path, nodes: int, **network: Any) -> Path:
    def change(content: dict[str, Any]) -> None:
        content["nodes"] = content["nodes"][:nodes]
        content["network"] |= network

    return write_inventory(lab, file, change)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("verify")


@pytest.fixture(scope="module")
def stopped(lab: Lab, folder: Path) -> CompletedProcess[str]:
    """`up` over two nodes that requires InfiniBand of hosts that have none: Ray stands, without a model."""
    return clusterctl("up", inventory(lab, folder / "ib.yaml", nodes=2, require="ib"))


@pytest.fixture(scope="module")
def three(lab: Lab, folder: Path, stopped: CompletedProcess[str]) -> Path:
    """The third node has joined, stopped by the same gate; what is asked from here on requires nothing."""
    assert stopped.returncode == 7
    grown = clusterctl("up", inventory(lab, folder / "ib3.yaml", nodes=3, require="ib"))
    assert grown.returncode == 7, grown.stderr
    return inventory(lab, folder / "any3.yaml", nodes=3)


@pytest.fixture(autouse=True)
def nothing_is_left(lab: Lab) -> Iterator[None]:
    """No process, no file and no open port, soon after every test, whatever happened in it."""
    yield
    deadline = time.monotonic() + 30
    while (
        left := [rest for target in lab.hosts for rest in rests(lab, target)]
    ) and time.monotonic() < deadline:
        pass
    assert left == []


def rests(lab: Lab, target: Host) -> list[str]:
    """What of a measurement is on a host."""
    looks = (
        ("pgrep", "-fa", "on_node/collectives"),
        ("ss", "-ltnH", f"sport = :{PORT}"),
        (
            "docker",
            "exec",
            f"clusterctl-{lab.name}-ray",
            "sh",
            "-c",
            "ls -d /tmp/clusterctl-verify* 2>/dev/null",
        ),
    )
    return [line for look in looks for line in host.run(target, *look).stdout.splitlines()]


def verified(file: Path, *options: str) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
    """(exit code, what was judged, warnings and errors)."""
    done = clusterctl("verify", file, "--json", *options, timeout=150)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    (judged,) = [event for event in events if event["event"] == "judged" and event["phase"] == PHASE]
    return done.returncode, judged, [event for event in events if event["event"] in ("warning", "error")]


def test_the_gate_stops_up_before_vllm(lab: Lab, stopped: CompletedProcess[str]) -> None:
    assert stopped.returncode == 7
    head = lab.hosts[0]
    assert f"error: {PHASE} failed on 1 of 2 nodes\n  {head.name}  " in stopped.stderr
    assert "expected: ib (network.require) [transport-unmet]" in stopped.stderr
    assert "all-reduce over 2 ranks on 2 nodes: bus bandwidth " in stopped.stdout
    assert re.search(rf"^{head.name} +[0-9.e-]+ GB/s *$", stopped.stdout, re.MULTILINE)
    assert docker(head, "ps", "--format", "{{.Names}}").split() == [f"clusterctl-{lab.name}-ray"]


def test_over_three_nodes(lab: Lab, three: Path) -> None:
    code, judged, problems = verified(three)
    assert (code, problems) == (0, [])
    assert [size["bytes"] for size in judged["sweep"]][:3] == [8, 1 << 16, 1 << 20]
    assert all(size["seconds"] > 0 for size in judged["sweep"])
    names = [one.name for one in lab.hosts]
    assert [(pair["a"], pair["b"]) for pair in judged["pairs"]] == [
        (names[0], names[1]),
        (names[0], names[2]),
        (names[1], names[2]),
    ]
    assert all(pair["bandwidth"] > 0 for pair in judged["pairs"])
    assert [(rank["node"], rank["state"]) for rank in judged["ranks"]] == [(name, "done") for name in names]


@contextlib.contextmanager
def shaped(target: Host, rate: str) -> Iterator[None]:
    """What a host sends, through a bucket."""
    words = (
        "tc",
        "qdisc",
        "add",
        "dev",
        "eth0",
        "root",
        "tbf",
        "rate",
        rate,
        "burst",
        "64kb",
        "latency",
        "100ms",
    )
    assert host.run(target, *words).returncode == 0
    try:
        yield
    finally:
        assert host.run(target, "tc", "qdisc", "del", "dev", "eth0", "root").returncode == 0


def test_a_shaped_link_is_slow_and_too_little(lab: Lab, three: Path, folder: Path) -> None:
    del three
    slow, *others = lab.hosts[::-1]
    wanting = inventory(lab, folder / "wanting.yaml", nodes=3, min_bus_bandwidth=0.1)
    with shaped(slow, "100mbit"):
        code, judged, problems = verified(wanting)
    assert code == 7
    assert [(p["event"], p["id"], p["node"]) for p in problems] == [
        ("error", "bandwidth-low", lab.hosts[0].name),
        ("warning", "network-slow", slow.name),
    ]
    assert problems[0]["expected"] == "at least 0.1 GB/s (network.min_bus_bandwidth)"
    assert [other.name for other in others if other.name not in problems[1]["found"]] == []
    rates = {frozenset((pair["a"], pair["b"])): pair["bandwidth"] for pair in judged["pairs"]}
    assert all(rate < 0.0126 for nodes, rate in rates.items() if slow.name in nodes)  # 100 Mbit/s, in GB/s


def test_a_link_that_goes_down_while_it_measures(lab: Lab, three: Path) -> None:
    cut = lab.hosts[2]
    with clusterctl_running("verify", three) as verify:
        verify.until(event="phase_started", phase=PHASE)
        joined = f"until ss -tnH state established 'dport = :{PORT}' | grep -q .; do :; done"
        assert host.run(cut, "timeout", "60", "sh", "-c", joined).returncode == 0
        started = time.monotonic()
        host.link_down(cut)
        try:
            code, stderr = verify.end()
            seconds = time.monotonic() - started
        finally:
            host.link_up(cut)
    assert code == 7
    assert f"error: {PHASE} failed on 1 of 3 nodes\n  {cut.name}  " in stderr
    assert seconds < 60
