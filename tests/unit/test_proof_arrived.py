"""What the processes of all nodes have, against the plan: each difference is named once, health never."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nccllog import Run as NcclRun
from nccllog import processes
from samples import PROCESS, fresh, healthy, plan

from cluster import phases
from cluster.checks.ids import IDS
from cluster.choice import choose, expected_environment
from cluster.errors import Problem
from cluster.facts import Facts
from cluster.facts.hardware import Hca, HcaPort
from cluster.plan import Member, Plan
from cluster.proof import arrived, served
from cluster.proof.attestation import Attestation, Log, parse
from cluster.steps import Judgement, Outcome, Phase, Result

PLAN = plan()
Change = Callable[[dict[str, str]], None]


def process(pid: int, kind: str, what: str, environment: Mapping[str, str] | None) -> dict[str, Any]:
    return {"pid": pid, "kind": kind, "what": what, "environment": environment}


def answer(plan: Plan, member: Member, change: Change = lambda _: None, **more: Any) -> dict[str, Any]:
    """What a healthy node answers while the model serves, but for the change to every environment."""
    facts = fresh(plan)
    planned = expected_environment(member, choose(plan, facts)[member.name])
    log_file = {"NCCL_DEBUG_FILE": "/tmp/clusterctl/nccl/%h.%p"} if plan.serve.nccl_debug else {}
    environment = {**planned, **log_file}
    change(environment)
    server = [process(40, "server", "vLLM's API server", environment)] if member.role == "head" else []
    ranks = [process(50 + n, "rank", "ray::RayWorkerProc.run", environment) for n in range(member.node.gpus)]
    return {
        "host": member.name,
        "names": sorted(planned),
        "network_env": None,
        "processes": [process(7, "ray", "raylet", environment), *server, *ranks],
        "logs": [],
        **more,
    }


def said(content: object) -> Result:
    return Result(0, json.dumps(content) + "\n", "")


def outcomes(plan: Plan = PLAN, **changed: Outcome) -> dict[str, Outcome]:
    """{node: outcome}, healthy but for those that are named: `gpu_02=...`."""
    by_name = {name.replace("_", "-"): outcome for name, outcome in changed.items()}
    return {m.name: by_name.get(m.name, said(answer(plan, m))) for m in plan.members}


def worker_with(change: Change, plan: Plan = PLAN) -> dict[str, Outcome]:
    return outcomes(plan, gpu_02=said(answer(plan, plan.members[1], change)))


def judged(
    found: Mapping[str, Outcome], plan: Plan = PLAN, facts: Mapping[str, Facts] | None = None
) -> Judgement:
    return arrived.judge(plan, facts or fresh(plan), (), found)


def problems(judgement: Judgement) -> list[tuple[str, str, str]]:
    both = (*judgement.verdict.errors, *judgement.verdict.warnings)
    return [(problem.severity, problem.id, problem.node) for problem in both]


def only(judgement: Judgement) -> Problem:
    (problem,) = (*judgement.verdict.errors, *judgement.verdict.warnings)
    return problem


# --- health -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        plan(base=PROCESS),
        plan({"runtime.device": "cpu"}),
        plan({"serve.nccl_debug": True}),
        plan({"network.hcas": ["mlx5_0"], "nodes.1.env": {"GLOO_SOCKET_IFNAME": "bond0"}}),
        plan({"network.interface": "eth0", "env": {"NCCL_DEBUG": "WARN", "HF_HUB_OFFLINE": "1"}}),
    ],
    ids=lambda plan: plan.cluster,
)
def test_a_healthy_cluster_has_no_problem(plan: Plan) -> None:
    judgement = judged(outcomes(plan), plan)
    assert problems(judgement) == []
    assert judgement.lines[0].endswith(" have the environment that was planned")
    assert set(judgement.content["environments"]) == {member.name for member in plan.members}


def test_what_was_chosen_is_what_lay_on_the_node_when_its_processes_started() -> None:
    """A port that is down since is no difference; that a process lacks the choice is one."""
    chosen = {"NCCL_IB_HCA": "=mlx5_0:1"}
    names = sorted([*answer(PLAN, PLAN.members[1])["names"], *chosen])
    there = answer(PLAN, PLAN.members[1], lambda env: env.update(chosen), network_env=chosen, names=names)
    assert problems(judged(outcomes(gpu_02=said(there)))) == []
    lacking = answer(PLAN, PLAN.members[1], network_env=chosen, names=names)
    assert problems(judged(outcomes(gpu_02=said(lacking)))) == [("error", "env-missing", "gpu-02")]


def test_what_a_node_does_not_tell_of_is_not_compared() -> None:
    secret = plan({"env": {"MONKEY": "x"}})
    names = [name for name in answer(secret, secret.head)["names"] if name != "MONKEY"]
    there = answer(secret, secret.head, lambda env: env.pop("MONKEY") and None, names=names)
    assert problems(judged(outcomes(secret, gpu_01=said(there)), secret)) == []


# --- differences ------------------------------------------------------------------------------------


def test_another_value_is_named_once_however_many_processes_have_it() -> None:
    problem = only(judged(worker_with(lambda env: env.update(GLOO_SOCKET_IFNAME="lo"))))
    assert (problem.id, problem.node, problem.severity) == ("env-overwritten", "gpu-02", "error")
    found = "GLOO_SOCKET_IFNAME is 'lo' in ray::RayWorkerProc.run (pid 50) and 2 more processes"
    assert problem.what == f"{found}; expected: 'eth0'"
    assert "a wrapper of `ray`" in problem.remedy


def test_the_heads_value_on_a_worker_is_called_that() -> None:
    problem = only(judged(worker_with(lambda env: env.update(VLLM_HOST_IP="10.0.0.11"))))
    assert problem.found.startswith("VLLM_HOST_IP is '10.0.0.11', the head's value, in ")
    assert problem.expected == "'10.0.0.12'"


def test_values_that_differ_between_processes_are_all_said() -> None:
    there = answer(PLAN, PLAN.members[1])
    for one, value in zip(there["processes"], ("lo", "eth1", "eth0"), strict=True):
        one["environment"] = one["environment"] | {"TP_SOCKET_IFNAME": value}
    problem = only(judged(outcomes(gpu_02=said(there))))
    found = "TP_SOCKET_IFNAME is 'lo' and 'eth1' in ray::RayWorkerProc.run (pid 50) and 1 more process"
    assert problem.found == found


def test_what_only_vllm_changed_is_laid_at_its_door() -> None:
    there = answer(PLAN, PLAN.members[1])
    for one in there["processes"][1:]:
        one["environment"] = one["environment"] | {"VLLM_HOST_IP": "10.0.0.11"}
    remedy = only(judged(outcomes(gpu_02=said(there)))).remedy
    assert "ray_non_carry_over_env_vars.json" in remedy
    assert "nodes[].env" in remedy


def test_what_is_no_matter_of_the_network_is_a_warning() -> None:
    offline = plan({"env": {"HF_HUB_OFFLINE": "1"}})
    judgement = judged(worker_with(lambda env: env.update(HF_HUB_OFFLINE="0"), offline), offline)
    assert problems(judgement) == [("warning", "env-overwritten", "gpu-02")]


def test_a_variable_that_is_missing_is_named() -> None:
    problem = only(judged(worker_with(lambda env: env.pop("GLOO_SOCKET_IFNAME") and None)))
    assert (problem.id, problem.severity, problem.expected) == ("env-missing", "error", "'eth0'")
    assert problem.found.startswith("GLOO_SOCKET_IFNAME is missing in ray::RayWorkerProc.run (pid 50) and 2 ")


def test_a_process_without_any_variable_of_the_plan_is_named_once() -> None:
    there = answer(PLAN, PLAN.members[1])
    there["processes"][0]["environment"] = {"NCCL_VERSION": "2.27.3"}
    problem = only(judged(outcomes(gpu_02=said(there))))
    assert (problem.id, problem.severity) == ("env-missing", "error")
    assert problem.found == "every variable of the plan is missing in raylet (pid 7)"


def test_the_file_of_nccls_log_is_missed_where_it_is_to_be_kept() -> None:
    debug = plan({"serve.nccl_debug": True})
    there = worker_with(lambda env: env.pop("NCCL_DEBUG_FILE") and None, debug)
    assert problems(judged(there, debug)) == [("error", "env-missing", "gpu-02")]


@pytest.mark.parametrize(
    ("image_env", "reason"),
    [({"NCCL_IB_TIMEOUT": "22"}, "The image's ENV sets it"), ({}, "a wrapper sets it")],
)
def test_what_no_one_planned_is_a_warning(image_env: dict[str, str], reason: str) -> None:
    facts = {name: replace(fact, image_env=image_env) for name, fact in fresh(PLAN).items()}
    problem = only(judged(worker_with(lambda env: env.update(NCCL_IB_TIMEOUT="22")), facts=facts))
    assert (problem.id, problem.severity, problem.node) == ("env-unplanned", "warning", "gpu-02")
    assert problem.found.startswith("NCCL_IB_TIMEOUT is '22' in ray::RayWorkerProc.run (pid 50)")
    assert reason in problem.remedy
    assert "set NCCL_IB_TIMEOUT in the inventory's env" in problem.remedy


def test_what_vllm_sets_for_its_own_processes_is_not_unplanned() -> None:
    there = answer(PLAN, PLAN.head)
    there["processes"].append(
        process(
            60, "engine", "EngineCore", there["processes"][0]["environment"] | {"NCCL_GRAPH_REGISTER": "0"}
        )
    )
    for one in there["processes"]:
        one["environment"] = one["environment"] | {"NCCL_VERSION": "2.27.3", "CUDA_VISIBLE_DEVICES": "1"}
    assert problems(judged(outcomes(gpu_01=said(there)))) == []


# --- nodes that did not answer ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "found"),
    [
        ("the connection broke", "the connection broke"),
        (Result(3, "", "clusterctl-demo-ray is not running: no such container\n"), "is not running"),
        (Result(0, "", ""), "no answer of environments.py"),
        (Result(0, "{]\n", ""), "no answer of environments.py: {]"),
        (said({"host": "x"}), "no answer of environments.py"),
        (said(answer(PLAN, PLAN.head, processes=[])), "no process of Ray or vLLM was found"),
        (
            said(answer(PLAN, PLAN.head, processes=[process(7, "ray", "raylet", None)])),
            "their titles lie over it",
        ),
    ],
)
def test_a_node_that_cannot_be_read_is_named(outcome: Outcome, found: str) -> None:
    problem = only(judged(outcomes(gpu_01=outcome)))
    assert (problem.id, problem.severity, problem.node) == ("env-unread", "error", "gpu-01")
    assert found in problem.found


@given(st.text(), st.integers(0, 3))
def test_garbage_is_a_reason_and_never_an_exception(text: str, exit_code: int) -> None:
    assert isinstance(parse(Result(exit_code, text, "")), str)


SCRAPS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(answer(PLAN, PLAN.head))), SCRAPS))
def test_a_mangled_answer_is_a_reason_or_is_judged(scraps: dict[str, Any]) -> None:
    found = outcomes(gpu_01=said(answer(PLAN, PLAN.head) | scraps))
    for judgement in (judged(found), served.judge(PLAN, fresh(PLAN), (), found)):
        assert {problem.id for problem in judgement.verdict.errors} <= set(IDS)


def test_ids_that_are_ignored_stop_nothing() -> None:
    found = worker_with(lambda env: env.update(GLOO_SOCKET_IFNAME="lo"))
    verdict = arrived.judge(PLAN, fresh(PLAN), ("env-overwritten",), found).verdict
    assert (verdict.errors, [problem.id for problem in verdict.ignored]) == ((), ["env-overwritten"])


# --- of the served model, with NCCL's logs --------------------------------------------------------------

DEBUG = plan({"serve.nccl_debug": True})


def log(pid: int, content: bytes, cut: bool = False) -> dict[str, Any]:
    packed = base64.b64encode(gzip.compress(content)).decode()
    return {"pid": pid, "size": len(content), "cut": cut, "gzip": packed}


def with_logs(run: NcclRun, plan: Plan = DEBUG, also: str = "") -> dict[str, Outcome]:
    """All ranks' logs of a run over two nodes of two GPUs, as their nodes answer them."""
    answers = {member.name: answer(plan, member) for member in plan.members}
    for one in processes(run):
        there, local = answers[one.host], one.rank % 2
        there["processes"][-2 + local]["pid"] = one.pid
        lines = [line.text for line in one.lines]
        if also:
            lines.append(f"{one.host}:{one.pid}:{one.pid} [{local}] NCCL INFO {also}")
        there["logs"].append(log(one.pid, "\n".join([*lines, ""]).encode()))
    return {name: said(there) for name, there in answers.items()}


def of_model(found: Mapping[str, Outcome], plan: Plan = DEBUG) -> Judgement:
    return served.judge(plan, fresh(plan), (), found)


def test_the_logs_of_all_processes_give_the_verdict() -> None:
    judgement = of_model(with_logs(NcclRun()))
    assert problems(judgement) == []
    assert judgement.content["verdict"] == "gdrdma"
    assert judgement.content["link_layer"] == "InfiniBand"
    assert len(judgement.content["nccl"]["ranks"]) == 4
    assert judgement.lines[1].startswith("gdrdma: traffic between nodes runs over InfiniBand")
    assert judgement.tables[0][0][:2] == ("node", "node")


@pytest.mark.parametrize(
    ("require", "run", "expected"),
    [
        ("ib", NcclRun(), []),
        ("gdrdma", NcclRun(), []),
        ("gdrdma", NcclRun(gdr=False), ["transport-unmet"]),
        ("ib", NcclRun(gdr=False), []),
        ("ib", NcclRun(network="Socket"), ["transport-unmet"]),
        ("roce", NcclRun(), ["transport-unmet"]),
        ("roce", NcclRun(network="RoCE"), []),
        ("socket", NcclRun(network="Socket"), []),
        ("any", NcclRun(network="Socket"), []),
        ("any", NcclRun(stopped=frozenset({3})), ["transport-unfinished"]),
        ("any", NcclRun(failed=3), ["transport-unfinished"]),
    ],
)
def test_what_is_required_is_held_against_the_log(require: str, run: NcclRun, expected: list[str]) -> None:
    wanted = plan({"serve.nccl_debug": True, "network.require": require})
    errors = of_model(with_logs(run, wanted), wanted).verdict.errors
    assert [problem.id for problem in errors] == expected
    assert all(problem.remedy.endswith("The model serves meanwhile") for problem in errors)


def test_sockets_although_all_nodes_have_hcas_are_a_warning() -> None:
    hca = Hca("mlx5_0", (HcaPort(1, "ACTIVE", "InfiniBand", 400.0),))
    facts = {name: replace(fact, hcas=(hca,)) for name, fact in fresh(DEBUG).items()}
    found = with_logs(NcclRun(network="Socket"))
    judgement = served.judge(DEBUG, facts, (), found)
    assert problems(judgement) == [("warning", "transport-fallback", "gpu-01")]
    facts["gpu-02"] = replace(facts["gpu-02"], hcas=())
    assert problems(served.judge(DEBUG, facts, (), found)) == []


def test_what_nccl_says_was_set_wins_over_what_the_process_was_started_with() -> None:
    found = with_logs(NcclRun(), also="NCCL_SOCKET_IFNAME set by environment to =eth9")
    judgement = of_model(found)
    assert problems(judgement) == [("error", "env-overwritten", name) for name in ("gpu-01", "gpu-02")]
    problem = judgement.verdict.errors[0]
    assert problem.found.startswith("NCCL_SOCKET_IFNAME is '=eth9' in ray::RayWorkerProc.run (pid 1000)")
    assert "vLLM changed it" in problem.remedy


def test_what_an_nccl_conf_sets_is_told_by_the_log() -> None:
    judgement = of_model(with_logs(NcclRun(), also="NCCL_IB_TIMEOUT set by environment to 22."))
    assert problems(judgement) == [("warning", "env-unplanned", name) for name in ("gpu-01", "gpu-02")]
    assert "nccl.conf" in judgement.verdict.warnings[0].remedy


@pytest.mark.parametrize(
    ("require", "severity"), [("any", "warning"), ("socket", "error"), ("ib", "error"), ("gdrdma", "error")]
)
def test_without_logs_the_transport_is_unknown(require: str, severity: str) -> None:
    wanted = plan({"network.require": require})
    judgement = of_model(outcomes(wanted), wanted)
    assert problems(judgement) == [(severity, "transport-unknown", "gpu-01")]
    assert "serve.nccl_debug: true" in only(judgement).remedy
    assert judgement.content["verdict"] == "unknown"


def test_at_the_end_of_up_the_probe_has_spoken_where_no_log_is_kept() -> None:
    wanted = plan({"network.require": "ib"})
    assert problems(served.judge_started(wanted, fresh(wanted), (), outcomes(wanted))) == []
    kept = plan({"network.require": "ib", "serve.nccl_debug": True})
    found = with_logs(NcclRun(network="Socket"), kept)
    assert problems(served.judge_started(kept, fresh(kept), (), found)) == [
        ("error", "transport-unmet", "gpu-01")
    ]


def test_gloo_counts_as_sockets() -> None:
    cpu = plan({"runtime.device": "cpu"})
    assert (problems(of_model(outcomes(cpu), cpu)), of_model(outcomes(cpu), cpu).content["verdict"]) == (
        [],
        "socket",
    )
    wanted = plan({"runtime.device": "cpu", "network.require": "ib"})
    assert problems(of_model(outcomes(wanted), wanted)) == [("error", "transport-unmet", "gpu-01")]


def test_one_node_needs_no_proof_of_a_network() -> None:
    alone = plan({"nodes": [{"name": "gpu-01", "address": "10.0.0.11", "gpus": 2}]})
    assert problems(of_model(outcomes(alone), alone)) == []


def test_ranks_that_are_not_seen_are_said() -> None:
    there = answer(PLAN, PLAN.members[1])
    del there["processes"][-1]
    judgement = served.judge_started(PLAN, fresh(PLAN), (), outcomes(gpu_02=said(there)))
    problem = only(judgement)
    assert (problem.id, problem.severity) == ("ranks-not-seen", "warning")
    assert problem.what == "3 of vLLM's ranks run: 2 on gpu-01, 1 on gpu-02; expected: 4, one for each"


def test_a_node_that_is_silent_is_named_and_not_its_transports() -> None:
    wanted = plan({"network.require": "ib"})
    judgement = of_model(outcomes(wanted, gpu_02="the connection broke"), wanted)
    assert problems(judgement) == [("error", "env-unread", "gpu-02")]


def test_a_log_of_which_only_the_head_was_read_is_said() -> None:
    there = answer(DEBUG, DEBUG.head, logs=[log(50, b"x", cut=True), log(51, b"y")])
    lines = served.judge(DEBUG, fresh(DEBUG), (), outcomes(DEBUG, gpu_01=said(there))).lines
    assert lines[-1] == "gpu-01: the log of pid 50 was read in part: it has 1 bytes"
    assert sum("was read in part" in line for line in lines) == 1


@pytest.mark.parametrize("packed", ["", "no base64", base64.b64encode(b"no gzip").decode()])
def test_a_log_that_cannot_be_unpacked_is_empty(packed: str) -> None:
    assert Log(1, 5, False, packed).content == b""


def test_a_whole_answer_is_read() -> None:
    found = parse(said(answer(PLAN, PLAN.head, logs=[log(7, b"x")])))
    assert isinstance(found, Attestation)
    assert [str(one) for one in found.processes][:2] == ["raylet (pid 7)", "vLLM's API server (pid 40)"]
    assert found.logs[0].content == b"x"


# --- when it is read ------------------------------------------------------------------------------------

AT_RAY, AT_VLLM, RUNNING = "Read what arrived at Ray", "Read what arrived at vLLM", "Read what arrived"


def titles(found: tuple[Phase, ...]) -> list[str]:
    return [phase.title for phase in found]


def test_ray_is_read_before_anything_is_measured_and_vllm_when_it_has_answered() -> None:
    found = titles(phases.up(PLAN, fresh(PLAN)))
    assert found.index(AT_RAY) == found.index("Prove the network") - 1
    assert found[-2:] == ["Wait for a completion", AT_VLLM]
    assert titles(phases.up(PLAN, healthy(PLAN))) == []


def test_with_mp_nothing_is_read_before_the_server_runs() -> None:
    mp = plan({"serve.executor_backend": "mp"})
    found = titles(phases.up(mp, fresh(mp)))
    assert AT_RAY not in found and AT_VLLM in found
    assert RUNNING not in titles(phases.verify(mp, fresh(mp), ()))
    assert RUNNING in titles(phases.verify(mp, healthy(mp), ()))


def test_a_model_is_asked_before_its_logs_are_read() -> None:
    """NCCL makes its channels at the first collective."""
    ask, read = phases.live(PLAN, healthy(PLAN), ())
    assert [str(step) for step in ask.steps] == ["gpu-01  sh .clusterctl/demo/gpu-01/run_cluster.sh ask"]
    assert [step.node for step in read.steps] == ["gpu-01", "gpu-02"]
