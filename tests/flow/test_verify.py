"""`clusterctl verify` and the gate in `up`: what is asked, what is said, and exit code 7."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fakes import FakeFleet, Outcome
from nccllog import Run as NcclRun
from proofs import measured, said
from samples import GOOD

from cluster.errors import ConnectionLost
from cluster.steps import Argv, Result

Clusterctl = Callable[..., Outcome]
IB = GOOD + "network: {require: ib}\n"
VERIFY = "run_cluster.sh verify"
HCA = """\
mlx5_0/hca:1
mlx5_0/ports/1/state:4: ACTIVE
mlx5_0/ports/1/link_layer:InfiniBand
mlx5_0/ports/1/rate:400 Gb/sec (4X NDR)
"""
ON_IB = {
    "hcas": Result(0, HCA, ""),
    "gpudirect": Result(0, "peermem=/sys/module/nvidia_peermem/version\n", ""),
    "inside": Result(
        0,
        '{"python": "3.12.3", "ray": "2.60.0", "vllm": "0.33.0", "infiniband": ["uverbs0"]}\n',
        "",
    ),
}


def answering(verb: str, answer: Callable[[], Result]) -> Callable[[Argv], Result | None]:
    return lambda argv: answer() if argv[2:3] == (verb,) else None


def talking(fleet: FakeFleet, network: str) -> None:
    """NCCL takes this network on all nodes."""
    run = NcclRun(network=network)  # type: ignore[arg-type]
    for node in fleet.nodes.values():
        answer = said(measured(fleet.plan, fleet.plan.member(node.name), run))
        node.special = answering("verify", lambda answer=answer: answer)  # type: ignore[misc]


@pytest.fixture
def standing(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    """A cluster that serves."""
    assert clusterctl("up").code == 0
    fleet.steps()


@pytest.mark.usefixtures("standing")
def test_verify_asks_and_changes_nothing(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    outcome = clusterctl("verify")
    assert (outcome.code, outcome.err) == (0, "")
    assert fleet.steps() == {
        name: [f"{name}  sh .clusterctl/demo/{name}/run_cluster.sh {verb}" for verb in ("attest", "verify")]
        for name in fleet.nodes
    }
    assert (
        "      all-reduce over 4 ranks on 2 nodes: bus bandwidth 201 GB/s at 512 MiB, 40.0 µs at 8 B"
        in outcome.lines
    )
    assert "      socket: traffic between nodes runs over TCP (eth0), not InfiniBand" in outcome.lines
    assert next(line.split() for line in outcome.lines if line.startswith("gpu-01 ")) == [
        "gpu-01",
        "67.1",
        "GB/s",
    ]


@pytest.mark.usefixtures("standing")
def test_in_json_the_judgement_is_an_event(clusterctl: Clusterctl) -> None:
    events = clusterctl("verify", "--json").events
    (judged,) = [
        event for event in events if event["event"] == "judged" and event["phase"] == "Prove the network"
    ]
    assert {
        "backend",
        "verdict",
        "link_layer",
        "latency",
        "sweep",
        "stages",
        "pairs",
        "links",
        "ranks",
        "nccl",
    } <= set(judged)
    assert (judged["verdict"], judged["backend"]) == ("socket", "nccl")
    assert not [event for event in events if event["event"] in ("error", "warning")]


def test_the_gate_stops_up_before_vllm(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.write(IB)
    fleet.facts = {"gpu-01": ON_IB, "gpu-02": ON_IB}
    outcome = clusterctl("up")
    assert outcome.code == 7
    assert outcome.err.splitlines()[:2] == [
        "error: Prove the network failed on 1 of 2 nodes",
        "  gpu-01  NCCL's verdict is socket: all channels between nodes that could be read go over TCP "
        "(NET/Socket), not RDMA; expected: ib (network.require) [transport-unmet]",
    ]
    assert list(fleet.nodes["gpu-01"].containers) == ["ray-gpu-01"]
    assert fleet.nodes["gpu-01"].steps[-1].endswith(VERIFY)


def test_behind_the_gate_up_continues(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.write(IB)
    fleet.facts = {"gpu-01": ON_IB, "gpu-02": ON_IB}
    assert clusterctl("up").code == 7
    talking(fleet, "IB")
    outcome = clusterctl("up")
    assert (outcome.code, outcome.err) == (0, "")
    assert "[1/5] Read what arrived at Ray (gpu-01, gpu-02)" in outcome.lines
    assert "gdrdma: traffic between nodes runs over InfiniBand with GPUDirect RDMA" in outcome.out
    assert clusterctl("verify").code == 0


def test_what_is_ignored_does_not_stop_it(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.write(IB)
    fleet.facts = {"gpu-01": ON_IB, "gpu-02": ON_IB}
    outcome = clusterctl("up", "--ignore", "transport-unmet")
    assert outcome.code == 0
    assert any(line.startswith("ignored  gpu-01  NCCL's verdict is socket") for line in outcome.lines)


def test_an_error_is_an_event_too(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.write(IB)
    fleet.facts = {"gpu-01": ON_IB, "gpu-02": ON_IB}
    events = clusterctl("up", "--json").events
    (error,) = [event for event in events if event["event"] == "error"]
    assert (error["id"], error["node"]) == ("transport-unmet", "gpu-01")
    assert events[-1] == error


def test_all_nodes_are_heard_though_one_is_lost(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    """The first to fail does not keep the others from being heard; it is the one that is named."""
    clusterctl("up")

    def lost() -> Result:
        raise ConnectionLost("the connection to gpu-02 broke: no answer for 15 s")

    fleet.nodes["gpu-02"].special = answering("verify", lost)
    outcome = clusterctl("verify")
    assert outcome.code == 7
    assert outcome.err.splitlines()[:3] == [
        "error: Prove the network failed on 1 of 2 nodes",
        "  gpu-02  the connection to gpu-02 broke: no answer for 15 s; expected: an answer from every "
        "rank [verify-failed]",
        "      `clusterctl status` says what runs there; `clusterctl up` brings back what is gone",
    ]


def test_explaining_asks_for_facts_alone(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.facts = {"gpu-01": ON_IB, "gpu-02": ON_IB}
    outcome = clusterctl("verify", "--explain")
    assert (outcome.code, outcome.err) == (0, "")
    assert "eth0" in outcome.out and "mlx5_0:1" in outcome.out
    (explained,) = clusterctl("verify", "--explain", "--json").events
    assert "mlx5_0" in str(explained)
    assert fleet.steps() == {"gpu-01": [], "gpu-02": []}


@pytest.mark.usefixtures("standing")
def test_scripts_of_another_inventory_measure_nothing(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    """They would go on listening on the old port, and blame the new one."""
    fleet.write(GOOD + "network: {verify_port: 29600}\n")
    outcome = clusterctl("verify")
    assert outcome.code == 5
    assert outcome.err.count("[scripts-outdated]") == 2
    assert "run_cluster.sh is of another inventory" in outcome.err
    assert fleet.steps() == {"gpu-01": [], "gpu-02": []}
    assert clusterctl("up").code == 0
    assert clusterctl("verify").code == 0


@pytest.mark.usefixtures("standing")
def test_a_port_that_is_taken_is_known_before(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.facts = {"gpu-01": {"listening": Result(0, "LISTEN 0 128 0.0.0.0:29511 0.0.0.0:*\n", "")}}
    outcome = clusterctl("verify")
    assert (outcome.code, fleet.steps()) == (5, {"gpu-01": [], "gpu-02": []})
    assert "[verify-port-in-use]" in outcome.err


@pytest.mark.usefixtures("standing")
def test_it_says_what_it_disturbs(clusterctl: Clusterctl) -> None:
    assert clusterctl("verify").lines[0].startswith("the model's server shares its GPUs and links")
    assert "shares" not in clusterctl("verify", "--live").out


def test_two_questions_at_once(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    assert clusterctl("verify", "--explain", "--live").code == 2
    assert clusterctl("verify", "--ignore", "no-such-id").code == 2
    assert fleet.opened == []


def test_without_ray_there_is_nothing_to_verify(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    outcome = clusterctl("verify")
    assert outcome.code == 5
    assert "gpu-01  ray is not there; expected: a running ray container [not-running]" in outcome.err
    assert fleet.steps() == {"gpu-01": [], "gpu-02": []}


def test_the_port_is_looked_at_before_anything_is_changed(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    taken = Result(0, "LISTEN 0 4096 0.0.0.0:29511 0.0.0.0:*\n", "")
    fleet.facts = {"gpu-01": {"listening": taken}, "gpu-02": {"listening": taken}}
    outcome = clusterctl("up")
    assert outcome.code == 5
    assert "gpu-01  port 29511 (network.verify_port) is taken by another program" in outcome.err
    assert "gpu-02" not in outcome.err
