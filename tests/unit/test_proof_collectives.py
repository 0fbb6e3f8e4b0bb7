"""What the nodes measured, judged: bandwidths, and whose fault it is when they cannot."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nccllog import Run as NcclRun
from proofs import measured, rank_end, said, transfer
from samples import PROCESS, fresh, plan

from cluster.argv.collectives import arguments
from cluster.checks.ids import IDS
from cluster.checks.system import ports
from cluster.errors import Problem
from cluster.facts import Facts
from cluster.facts.hardware import Hca, HcaPort, Interface
from cluster.plan import Plan
from cluster.proof import collectives
from cluster.proof.bandwidth import links
from cluster.steps import Judgement, Outcome, Result

TWO = plan()
THREE = plan({"nodes": [{"name": f"gpu-0{n}", "address": f"10.0.0.1{n}", "gpus": 2} for n in (1, 2, 3)]})
CPU = plan({"runtime.device": "cpu"})
ON_IB = (Hca("mlx5_0", (HcaPort(1, "ACTIVE", "InfiniBand", 400.0),)),)
BROKEN = "the connection to gpu-02 broke: no answer for 15 s"
GLOO_TIMEOUT = "RuntimeError: [pair.cc:1] Timed out waiting 15000ms for recv operation to complete"


def answers(plan: Plan, run: NcclRun | None = None, **changed: Any) -> dict[str, Outcome]:
    """{node: what it says}; `changed` by name with _ for -: keys of its answer, or an outcome as it is."""
    given = {name.replace("_", "-"): change for name, change in changed.items()}
    return {
        member.name: change
        if isinstance(change := given.get(member.name, {}), str | Result)
        else said(measured(plan, member, run, **change))
        for member in plan.members
    }


def judged(
    plan: Plan,
    outcomes: dict[str, Outcome],
    facts: dict[str, Facts] | None = None,
    ignore: tuple[str, ...] = (),
) -> Judgement:
    return collectives.judge(plan, facts or fresh(plan), ignore, outcomes)


def errors(judgement: Judgement) -> list[tuple[str, str]]:
    return [(problem.id, problem.node) for problem in judgement.verdict.errors]


def only(judgement: Judgement) -> Problem:
    (problem,) = (*judgement.verdict.errors, *judgement.verdict.warnings)
    return problem


# --- what is asked ----------------------------------------------------------------------------------


def test_every_node_is_asked_at_once() -> None:
    assert [str(step) for step in collectives.steps(TWO)] == [
        "gpu-01  sh .clusterctl/demo/gpu-01/run_cluster.sh verify",
        "gpu-02  sh .clusterctl/demo/gpu-02/run_cluster.sh verify",
    ]


@pytest.mark.parametrize(
    ("timeout", "limits"),
    [(120.0, ("60", "20", "120")), (600.0, ("300", "20", "600")), (30.0, ("15", "5", "30"))],
)
def test_its_limits_are_parts_of_verify_timeout(timeout: float, limits: tuple[str, ...]) -> None:
    changed = plan({"network.verify_timeout": timeout})
    words = arguments(changed, changed.head)[-6:]
    assert words[::2] == ("--start-limit", "--stage-limit", "--total-limit")
    assert words[1::2] == limits
    assert {step.timeout for step in collectives.steps(changed)} == {timeout + 60.0}


def test_one_rank_has_nobody_to_talk_to() -> None:
    assert collectives.steps(plan(base=PROCESS)) == ()


# --- all is well ------------------------------------------------------------------------------------


def test_bandwidths() -> None:
    """2(n-1)/n = 1.5 for four ranks."""
    judgement = judged(TWO, answers(TWO))
    assert judgement.verdict == judged(CPU, answers(CPU)).verdict == Judgement().verdict
    content = judgement.content
    assert content["sweep"][2] == {
        "bytes": 512 << 20,
        "seconds": 4e-3,
        "algorithm_bandwidth": pytest.approx(134.217728),
        "bus_bandwidth": pytest.approx(201.326592),
    }
    assert content["latency"] == 4e-5
    # Two ranks of 64 MiB in 2 ms each; every stage of the four ranks sends to the one behind it.
    (pair,) = content["pairs"]
    assert pair == {"a": "gpu-01", "b": "gpu-02", "bandwidth": pytest.approx(67.108864), "ranks": 2}
    assert [(stage["src"], stage["dst"]) for stage in content["stages"]] == [(0, 2), (1, 3)]
    assert (content["backend"], content["verdict"], content["nccl"]["verdict"]) == (
        "nccl",
        "socket",
        "socket",
    )
    assert json.dumps(dict(content))


def test_what_people_read() -> None:
    facts = {
        name: replace(one, interfaces={"eth0": Interface((TWO.member(name).address,), speed=100_000)})
        for name, one in fresh(TWO).items()
    }
    judgement = judged(TWO, answers(TWO), facts)
    assert judgement.lines == (
        "all-reduce over 4 ranks on 2 nodes: bus bandwidth 201 GB/s at 512 MiB, 40.0 µs at 8 B",
        "that is 1610.6% of the 12.5 GB/s of eth0 on gpu-01",
        "pipeline stages: 33.6 GB/s from rank 0 to rank 2, the slowest of 2",
        "socket: traffic between nodes runs over TCP (eth0), not InfiniBand",
    )
    sweep, pairs, *transports = judgement.tables
    assert sweep[1][1] == ("1 MiB", "100.0 µs", "10.5 GB/s", "15.7 GB/s")
    assert pairs[1] == (("gpu-01", "", "67.1 GB/s"), ("gpu-02", "67.1 GB/s", ""))
    assert transports[0][1] == (("gpu-01", "gpu-02", "NET/Socket", "eth0", "off"),)


def test_hcas_are_what_the_links_can_carry() -> None:
    facts = {name: replace(one, hcas=ON_IB) for name, one in fresh(TWO).items()}
    content = judged(TWO, answers(TWO, NcclRun(network="IB")), facts).content
    assert content["verdict"] == "gdrdma"
    assert content["links"][0] == {
        "node": "gpu-01",
        "through": ["mlx5_0:1"],
        "kind": "HCAs",
        "bandwidth": 50.0,
    }


@pytest.mark.parametrize(
    ("gpus", "near", "through"),
    [
        (2, {0: [0, 1], 1: [2, 3]}, ["mlx5_0:1", "mlx5_1:1", "mlx5_2:1", "mlx5_3:1"]),
        (1, {0: [2], 1: [0]}, ["mlx5_2:1"]),
        (1, {0: [1, 2], 1: [0, 3]}, ["mlx5_1:1", "mlx5_2:1"]),
        (1, {0: [], 1: []}, ["mlx5_0:1"]),  # none is near: one for each GPU
        (2, {}, ["mlx5_0:1", "mlx5_1:1"]),  # unknown, as in a virtual machine
    ],
)
def test_only_the_hcas_of_gpus_that_take_part_count(
    gpus: int, near: dict[int, list[int]], through: list[str]
) -> None:
    names = [f"mlx5_{number}" for number in range(4)]
    hcas = tuple(Hca(name, (HcaPort(1, "ACTIVE", "InfiniBand", 400.0),)) for name in names)
    distances = {
        f"GPU{gpu}": {name: "PIX" if number in own else "SYS" for number, name in enumerate(names)}
        for gpu, own in near.items()
    }
    some = plan({"nodes.0.gpus": gpus, "nodes.1.gpus": gpus, "serve.tensor_parallel_size": 1})
    facts = {name: replace(one, hcas=hcas, distances=distances) for name, one in fresh(some).items()}
    could = links(some, facts)["gpu-01"]
    assert (list(could.through), could.bandwidth) == (through, 50.0 * len(through))


def test_one_node_alone() -> None:
    alone = plan({"nodes": [{"name": "gpu-01", "address": "10.0.0.11", "gpus": 4}], "network.require": "ib"})
    judgement = judged(alone, answers(alone, NcclRun(nodes=1, gpus=4)))
    assert judgement.verdict == Judgement().verdict
    assert "one node: nothing is required of a network" in judgement.lines
    assert judgement.content["pairs"] == []
    assert judgement.content["verdict"] == "intra-node"


def test_pairs_that_were_not_measured_are_said_to_be() -> None:
    outcomes = answers(THREE, gpu_01={"pairs": [transfer(0, 2)]}, gpu_02={"pairs": []}, gpu_03={"pairs": []})
    judgement = judged(THREE, outcomes)
    assert [pair["bandwidth"] is None for pair in judgement.content["pairs"]] == [False, True, True]
    assert "2 of 3 pairs of nodes were not measured: the time was over" in judgement.lines
    assert judgement.tables[1][1][0] == ("gpu-01", "", "33.6 GB/s", "not measured")


# --- the gate ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("require", "network", "met"),
    [
        ("ib", "Socket", False),
        ("ib", "IB", True),
        ("gdrdma", "IB", True),
        ("roce", "IB", False),
        ("any", "Socket", True),
    ],
)
def test_what_is_required(require: str, network: Any, met: bool) -> None:
    wanted = plan({"network.require": require})
    judgement = judged(wanted, answers(wanted, NcclRun(network=network)))
    assert errors(judgement) == ([] if met else [("transport-unmet", "gpu-01")])


def test_the_head_of_a_log_proves_nothing() -> None:
    """What was not read may be of a channel over TCP."""
    wanted = plan({"network.require": "gdrdma"})
    run = NcclRun(network="IB")
    whole = measured(wanted, wanted.head, run)
    head = {**whole, "logs": [{**log, "cut": True} for log in whole["logs"][:1]] + whole["logs"][1:]}
    judgement = judged(wanted, {**answers(wanted, run), "gpu-01": said(head)})
    assert errors(judgement) == [("transport-unknown", "gpu-01")]
    assert "is not whole" in judgement.verdict.errors[0].found


def test_gloo_counts_as_a_socket() -> None:
    for require, met in (("socket", True), ("any", True), ("ib", False)):
        wanted = plan({"runtime.device": "cpu", "network.require": require})
        judgement = judged(wanted, answers(wanted))
        assert errors(judgement) == ([] if met else [("transport-unmet", "gpu-01")])
        assert (judgement.content["backend"], judgement.content["verdict"]) == ("gloo", "socket")


@pytest.mark.parametrize(("wanted", "met"), [(201.0, True), (202.0, False)])
def test_the_least_bus_bandwidth(wanted: float, met: bool) -> None:
    changed = plan({"network.min_bus_bandwidth": wanted})
    judgement = judged(changed, answers(changed))
    assert errors(judgement) == ([] if met else [("bandwidth-low", "gpu-01")])
    if not met:
        problem = only(judgement)
        assert problem.found == "an all-reduce reaches a bus bandwidth of 201 GB/s at best over socket"
        assert problem.expected == "at least 202 GB/s (network.min_bus_bandwidth)"
        ignoring = judged(changed, answers(changed), ignore=("bandwidth-low",))
        assert (ignoring.verdict.errors, ignoring.verdict.ignored) == ((), (problem,))


@pytest.mark.parametrize(
    ("wanted", "end", "found"),
    [
        (500.0, "largest", ("bandwidth-low", "error")),
        (500.0, "", ("bandwidth-low", "error")),
        (500.0, "time", ("bandwidth-low", "error")),
        (500.0, "memory", ("bandwidth-unknown", "warning")),
        (100.0, "memory", None),
    ],
)
def test_a_sweep_without_memory_is_no_slow_network(
    wanted: float, end: str, found: tuple[str, str] | None
) -> None:
    changed = plan({"network.min_bus_bandwidth": wanted})
    same = {"sweep_end": end}
    judgement = judged(changed, answers(changed, gpu_01=same, gpu_02=same))
    problems = (*judgement.verdict.errors, *judgement.verdict.warnings)
    assert [(problem.id, problem.severity) for problem in problems] == ([found] if found else [])
    assert judgement.content["sweep_end"] == (end or None)
    assert any("not measured" in line for line in judgement.lines) is (end in ("time", "memory"))


def test_a_sweep_of_nothing_meets_no_requirement() -> None:
    changed = plan({"network.min_bus_bandwidth": 1.0})
    nothing = {"sweep": [], "sweep_end": "time"}
    problem = only(judged(changed, answers(changed, gpu_01=nothing, gpu_02=nothing)))
    assert problem.id == "bandwidth-unknown"
    assert problem.found == "there was not the time to all-reduce more: nothing measured"
    assert "network.verify_timeout" in problem.remedy


def test_sockets_beside_active_hcas() -> None:
    facts = {name: replace(one, hcas=ON_IB) for name, one in fresh(TWO).items()}
    problem = only(judged(TWO, answers(TWO, NcclRun(network="Socket")), facts))
    assert (problem.id, problem.severity) == ("transport-fallback", "warning")


# --- slow pairs -------------------------------------------------------------------------------------


def slowed(plan: Plan, *nodes: str, seconds: float) -> dict[str, Outcome]:
    """Pairs of these two nodes, or all of this one's, take longer."""
    outcomes: dict[str, Outcome] = {}
    own = {
        rank: member.name
        for member in plan.members
        for rank in (2 * member.node_rank, 2 * member.node_rank + 1)
    }
    for member in plan.members:
        content = measured(plan, member)
        for pair in content["pairs"]:
            if set(nodes) <= {own[pair["src"]], own[pair["dst"]]}:
                pair["seconds"] = seconds
        outcomes[member.name] = said(content)
    return outcomes


def with_speed(plan: Plan) -> dict[str, Facts]:
    """Interfaces of 100 Gb/s."""
    return {
        name: replace(one, interfaces={"eth0": Interface((plan.member(name).address,), speed=100_000)})
        for name, one in fresh(plan).items()
    }


def test_a_slow_node() -> None:
    problem = only(judged(THREE, slowed(THREE, "gpu-02", seconds=0.1), with_speed(THREE)))
    assert (problem.id, problem.node, problem.severity) == ("network-slow", "gpu-02", "warning")
    assert problem.found == (
        "0.671 GB/s a rank between gpu-01 and gpu-02, 0.671 GB/s a rank between gpu-02 and gpu-03"
    )
    assert problem.remedy.startswith("Run `ethtool eth0` on gpu-02: ")


def test_a_slow_pair() -> None:
    problem = only(judged(THREE, slowed(THREE, "gpu-01", "gpu-03", seconds=0.1)))
    assert problem.found == "0.671 GB/s a rank between gpu-01 and gpu-03"
    assert problem.expected == "about 33.6 GB/s a rank, the median of the other pairs"


def test_a_node_with_fewer_gpus_is_not_slow() -> None:
    """Its pairs carry what one rank sends, those of the others what eight do."""
    uneven = plan(
        {
            "nodes": [
                {"name": f"gpu-0{n}", "address": f"10.0.0.1{n}", "gpus": gpus}
                for n, gpus in enumerate((8, 8, 1), 1)
            ],
            "runtime.device": "cpu",
            "serve.tensor_parallel_size": 1,
        }
    )
    judgement = judged(uneven, answers(uneven))
    rates = [pair["bandwidth"] for pair in judgement.content["pairs"]]
    assert rates == pytest.approx([268.435456, 33.554432, 33.554432])
    assert judgement.verdict == Judgement().verdict


@pytest.mark.parametrize(("seconds", "slow"), [(0.02, False), (0.2, True)])
def test_two_nodes_against_a_tenth_of_their_links(seconds: float, slow: bool) -> None:
    judgement = judged(TWO, slowed(TWO, "gpu-01", "gpu-02", seconds=seconds), with_speed(TWO))
    assert [problem.id for problem in judgement.verdict.warnings] == ["network-slow"] * slow


# --- whose fault ------------------------------------------------------------------------------------

HUNG = {"state": "hung", "stage": "all-reduce of 16 MiB", "steps": 4}
WAITING = {"ranks": [rank_end(rank, **HUNG) for rank in (0, 1)], "error": "out of time"}


def test_a_line_that_broke() -> None:
    problem = only(judged(TWO, answers(TWO, gpu_01=WAITING, gpu_02=BROKEN)))
    assert (problem.id, problem.node, problem.found) == ("verify-failed", "gpu-02", BROKEN)
    assert problem.remedy.endswith("; ranks 0, 1 on gpu-01 waited")


def test_the_script_that_fails() -> None:
    gone = Result(3, "", "clusterctl-demo-ray is not running: no such container\n")
    problem = only(judged(TWO, answers(TWO, gpu_01=WAITING, gpu_02=gone)))
    assert (problem.node, problem.found) == ("gpu-02", gone.stderr.strip())
    assert problem.remedy.startswith("`clusterctl status` says what runs there; ")


def test_the_port_is_taken() -> None:
    lonely = [
        rank_end(r, "failed", "joining the others", 1, error="no store", missing=[0, 1]) for r in (2, 3)
    ]
    taken = {"error": "port taken", "ranks": [], "sweep": [], "stages": [], "pairs": [], "logs": []}
    problem = only(judged(TWO, answers(TWO, gpu_01=taken, gpu_02={"ranks": lonely})))
    assert (problem.id, problem.node) == ("verify-port-in-use", "gpu-01")
    assert "'sport = :29511'" in problem.remedy


def test_a_rank_that_stands_still_before_those_that_wait() -> None:
    still = [rank_end(2, **HUNG, process="T"), rank_end(3, **HUNG, process="S")]
    problem = only(judged(TWO, answers(TWO, gpu_01=WAITING, gpu_02={"ranks": still})))
    assert (problem.id, problem.node) == ("verify-hang", "gpu-02")
    assert problem.found == "rank 2 hangs in all-reduce of 16 MiB: stopped, as by SIGSTOP or a debugger"
    assert problem.remedy.endswith("; ranks 0, 1, 3 on gpu-01 waited")


def test_a_rank_that_is_behind_the_others() -> None:
    behind = [rank_end(2, **{**HUNG, "stage": "making the communicator", "steps": 2}), rank_end(3, **HUNG)]
    problem = only(judged(TWO, answers(TWO, gpu_01=WAITING, gpu_02={"ranks": behind})))
    assert problem.found == "rank 2 hangs in making the communicator: the others are further"


def test_where_nobody_stands_out_all_are_named() -> None:
    waiting = {"ranks": [rank_end(rank, **HUNG) for rank in (2, 3)]}
    judgement = judged(TWO, answers(TWO, gpu_01=WAITING, gpu_02=waiting))
    assert errors(judgement) == [("verify-hang", "gpu-01"), ("verify-hang", "gpu-02")]
    assert judgement.verdict.errors[0].found == "ranks 0, 1 hang in all-reduce of 16 MiB"


@pytest.mark.parametrize(
    "out_of_memory",
    [
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 512.00 MiB",
        "AcceleratorError: CUDA error: out of memory",  # torch 2.11 on an H200 with 300 MiB left
    ],
)
def test_a_rank_that_failed_by_itself(out_of_memory: str) -> None:
    failed = [rank_end(2, "failed", "all-reduce of 512 MiB", 7, error=out_of_memory), rank_end(3, **HUNG)]
    left = [rank_end(rank, "failed", "all-reduce of 512 MiB", 7, error=GLOO_TIMEOUT) for rank in (0, 1)]
    problem = only(judged(TWO, answers(TWO, gpu_01={"ranks": left}, gpu_02={"ranks": failed})))
    assert (problem.id, problem.node) == ("verify-failed", "gpu-02")
    assert problem.found == f"rank 2 failed in all-reduce of 512 MiB: {out_of_memory}"
    assert problem.remedy.startswith("Other processes hold the GPU memory of gpu-02, as a model that serves ")


def test_a_rank_that_was_killed() -> None:
    died = [rank_end(2, "died", "all-reduce of 1 MiB", 4, error="killed by SIGKILL"), rank_end(3, **HUNG)]
    problem = only(judged(TWO, answers(TWO, gpu_01=WAITING, gpu_02={"ranks": died})))
    assert problem.found == "rank 2 failed in all-reduce of 1 MiB: killed by SIGKILL"


def test_ranks_that_never_came() -> None:
    why = {"error": "ranks 2, 3 did not come within 60 s", "missing": [2, 3]}
    first = [rank_end(rank, "failed", "joining the others", 1, **why) for rank in (0, 1)]
    starting = [rank_end(rank, "hung", "starting", 0, process="S") for rank in (2, 3)]
    judgement = judged(TWO, answers(TWO, gpu_01={"ranks": first}, gpu_02={"ranks": starting}))
    assert {node for _, node in errors(judgement)} == {"gpu-02"}
    assert judgement.verdict.errors[0].found == "ranks 2, 3 did not come to the others at 10.0.0.11:29511"


def test_a_timeout_of_all() -> None:
    """Nothing but the network can be to blame, and both ends of it are named, in torch's words."""
    outcomes = answers(
        TWO,
        gpu_01={
            "ranks": [rank_end(r, "failed", "making the communicator", 2, error=GLOO_TIMEOUT) for r in (0, 1)]
        },
        gpu_02={
            "ranks": [rank_end(r, "failed", "making the communicator", 2, error=GLOO_TIMEOUT) for r in (2, 3)]
        },
    )
    judgement = judged(TWO, outcomes)
    assert errors(judgement) == [("verify-hang", "gpu-01"), ("verify-hang", "gpu-02")]
    assert judgement.verdict.errors[1].found == f"ranks 2, 3 hang in making the communicator: {GLOO_TIMEOUT}"


def test_faults_hide_what_was_measured_before() -> None:
    """A requirement that is not met is no news where the measurement broke off."""
    wanted = plan({"network.require": "ib", "network.min_bus_bandwidth": 1e6})
    assert errors(judged(wanted, answers(wanted, gpu_02=BROKEN))) == [("verify-failed", "gpu-02")]


def test_all_ids_are_in_the_list() -> None:
    assert {
        "verify-failed",
        "verify-hang",
        "verify-port-in-use",
        "bandwidth-low",
        "bandwidth-unknown",
    } <= set(IDS)


# --- preflight --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "listening", "found"),
    [("gpu-01", {29511}, ["verify-port-in-use"]), ("gpu-01", {29512}, []), ("gpu-02", {29511}, [])],
)
def test_the_port_is_looked_at_before(node: str, listening: set[int], found: list[str]) -> None:
    facts = replace(fresh(TWO)[node], listening=frozenset(listening))
    assert [problem.id for problem in ports(TWO, TWO.member(node), facts)] == found


# --- anything at all --------------------------------------------------------------------------------

NUMBERS = st.one_of(st.none(), st.booleans(), st.integers(-2, 10**12), st.floats(), st.text(max_size=5))


@given(
    st.recursive(
        NUMBERS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)
    )
)
def test_garbage_is_a_node_that_cannot_measure(content: Any) -> None:
    outcomes = answers(CPU, gpu_02=Result(0, json.dumps(content), ""))
    assert errors(judged(CPU, outcomes)) == [("verify-failed", "gpu-02")]


KEYS = ("ranks", "sweep", "stages", "pairs", "logs", "error", "node_rank", "backend")


@given(
    st.sampled_from(KEYS),
    st.lists(
        st.dictionaries(st.sampled_from(["rank", "src", "dst", "bytes", "seconds"]), NUMBERS), max_size=3
    ),
)
def test_a_mangled_answer_never_raises(key: str, content: Any) -> None:
    assert judged(CPU, answers(CPU, gpu_02={key: content})).content["backend"] == "gloo"


@pytest.mark.parametrize("cut", [0, 1, 10, 400])
def test_an_answer_that_was_cut(cut: int) -> None:
    whole = said(measured(TWO, TWO.workers[0])).stdout
    judgement = judged(TWO, answers(TWO, gpu_02=Result(0, whole[: len(whole) - 2 - cut], "")))
    assert errors(judgement) == [("verify-failed", "gpu-02")]
