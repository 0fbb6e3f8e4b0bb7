"""What on_node/collectives.py answered on H200s of one host (torch 2.11.0, NCCL 2.28.9), and what it means.

`socket-0` and `socket-1` ran at once as two nodes of two GPUs, by NCCL_HOSTID, and `shm-2` and `shm-4` with
NCCL_P2P_DISABLE=1. In `hang-2` rank 1 got SIGSTOP once its rings were connected (--stage-limit 5).
"""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from samples import fresh, plan

from cluster.plan import Plan
from cluster.proof import collectives
from cluster.steps import Judgement, Result

HERE = Path(__file__).parent / "verify"


def recorded(*names: str, gpus: int, require: str = "any", least: float | None = None) -> Judgement:
    """The judgement of the answers of so many nodes."""
    nodes = [{"name": f"gpu-0{n}", "address": f"10.0.0.1{n}", "gpus": gpus} for n, _ in enumerate(names, 1)]
    network = {"require": require} | ({"min_bus_bandwidth": least} if least else {})
    wanted: Plan = plan({"nodes": nodes, "network": network, "serve.tensor_parallel_size": 2})
    answers = [gzip.decompress((HERE / f"{name}.json.gz").read_bytes()).decode() for name in names]
    outcomes = {
        member.name: Result(0, text, "") for member, text in zip(wanted.members, answers, strict=True)
    }
    return collectives.judge(wanted, fresh(wanted), (), outcomes)


def transports(judgement: Judgement) -> set[str]:
    return {edge["transport"].partition("/")[0] for edge in judgement.content["nccl"]["edges"]}


@pytest.mark.parametrize(
    ("name", "gpus", "transport", "bandwidth"),
    [
        ("p2p-2", 2, "P2P", 316),
        ("p2p-4", 4, "P2P", 348),
        ("shm-2", 2, "SHM", 27.4),
        ("shm-4", 4, "SHM", 30.8),
    ],
)
def test_inside_a_node(name: str, gpus: int, transport: str, bandwidth: float) -> None:
    judgement = recorded(name, gpus=gpus, require="ib")
    assert judgement.verdict == Judgement().verdict
    assert judgement.content["verdict"] == "intra-node"
    assert transports(judgement) == {transport}
    best = max(size["bus_bandwidth"] for size in judgement.content["sweep"])
    assert best == pytest.approx(bandwidth, rel=0.01)


def test_between_nodes_over_tcp() -> None:
    judgement = recorded("socket-0", "socket-1", gpus=2)
    assert judgement.verdict == Judgement().verdict
    assert judgement.content["verdict"] == "socket"
    assert transports(judgement) == {"P2P", "NET"}
    assert (
        "all-reduce over 4 ranks on 2 nodes: bus bandwidth 6.85 GB/s at 16 MiB, 29.0 µs at 8 B"
        in judgement.lines
    )
    (pair,) = judgement.content["pairs"]
    assert pair["bandwidth"] == pytest.approx(4.85, rel=0.01)


def test_the_gate_before_half_an_hour_of_loading() -> None:
    judgement = recorded("socket-0", "socket-1", gpus=2, require="ib", least=40.0)
    assert [problem.id for problem in judgement.verdict.errors] == ["transport-unmet", "bandwidth-low"]


def test_a_rank_on_a_gpu_that_stands_still() -> None:
    judgement = recorded("hang-2", gpus=2)
    (problem,) = judgement.verdict.errors
    assert (problem.id, problem.node) == ("verify-hang", "gpu-01")
    assert problem.found == "rank 1 hangs in all-reduce of 8 B: stopped, as by SIGSTOP or a debugger"


def test_half_of_the_logs_prove_no_rdma() -> None:
    """One node alone spoke: the other is named, whatever the first one's log shows."""
    wanted = plan({"network.require": "ib"})
    first = gzip.decompress((HERE / "socket-0.json.gz").read_bytes()).decode()
    outcomes = {"gpu-01": Result(0, first, ""), "gpu-02": "gone"}
    judgement = collectives.judge(wanted, fresh(wanted), (), outcomes)
    assert [(problem.id, problem.node) for problem in judgement.verdict.errors] == [
        ("verify-failed", "gpu-02")
    ]
    ignoring = collectives.judge(wanted, fresh(wanted), ("verify-failed",), outcomes).verdict
    assert [problem.id for problem in ignoring.ignored] == ["verify-failed"]
    assert [problem.id for problem in ignoring.errors] == ["transport-unmet"]
