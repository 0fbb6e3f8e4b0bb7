"""What `up` and `down` do, from facts made by hand: what is already so is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from samples import GOOD, PROCESS, SECRETS, container, fresh, healthy, plan

from cluster import phases
from cluster.facts import Answer, Facts, RayNode
from cluster.plan import Plan
from cluster.steps import Phase, Put, Result, Secret, Wait


def run(node: str) -> str:
    """The command of a node's own script."""
    return f"sh .clusterctl/demo/{node}/run_cluster.sh"


def asked(title: str, verb: str) -> list[str]:
    """A phase that asks both nodes."""
    return [title, f"  gpu-01  {run('gpu-01')} {verb}", f"  gpu-02  {run('gpu-02')} {verb}"]


NETWORK = asked("Prove the network", "verify")
PROOF = [*asked("Read what arrived at Ray", "attest"), *NETWORK]
AT_VLLM = asked("Read what arrived at vLLM", "attest")


def shown(found: tuple[Phase, ...]) -> list[str]:
    """Titles, and below each its steps without the files that are written."""
    return [
        line
        for phase in found
        for line in (phase.title, *(f"  {step}" for step in phase.steps if not isinstance(step, Put)))
    ]


def up(plan: Plan, facts: Mapping[str, Facts], **more: Any) -> list[str]:
    return shown(phases.up(plan, facts, **more))


def test_a_fresh_cluster_word_for_word() -> None:
    assert up(plan(), fresh(plan())) == [
        "Write start scripts",
        "Start Ray head",
        f"  gpu-01  {run('gpu-01')} ray",
        f"  gpu-01  wait up to 120 s for: {run('gpu-01')} nodes",
        "Start Ray workers",
        f"  gpu-02  {run('gpu-02')} ray",
        "Wait for every node and GPU to join",
        f"  gpu-02  wait up to 120 s for: {run('gpu-02')} nodes",
        *PROOF,
        "Start vLLM",
        f"  gpu-01  {run('gpu-01')} serve",
        "Wait for a completion",
        f"  gpu-01  wait up to 3600 s for: {run('gpu-01')} ready",
        *AT_VLLM,
    ]


def test_the_files_that_are_written() -> None:
    written, *_ = phases.up(plan(), fresh(plan()), SECRETS)
    puts = [
        (step.node, step.path.removeprefix(f".clusterctl/demo/{step.node}/"), step.mode)
        for step in written.steps
    ]
    scripts = ["run_cluster.sh", "enter.sh", "ray.sh"]
    assert {path for node, path, mode in puts if node == "gpu-02" and mode == 0o755} == set(scripts)
    assert {path for node, path, mode in puts if node == "gpu-01" and mode == 0o755} == {*scripts, "serve.sh"}
    assert {(node, path) for node, path, mode in puts if mode == 0o600} == {
        ("gpu-01", "secrets.env"),
        ("gpu-02", "secrets.env"),
    }
    (secrets, _) = [step for step in written.steps if step.path.endswith("secrets.env")]
    assert secrets.content.encode() == b"HF_TOKEN=hf_verysecret\n"
    assert isinstance(secrets.content, Secret)


@pytest.mark.parametrize("base", [GOOD, PROCESS])
@pytest.mark.parametrize("secrets", [(), SECRETS])
@pytest.mark.parametrize("backend", ["ray", "mp"])
def test_where_all_is_so_there_is_nothing_to_do(base: str, secrets: Any, backend: str) -> None:
    changed = plan({"serve.executor_backend": backend}, base)
    assert phases.up(changed, healthy(changed, secrets), secrets) == ()


def with_facts(facts: Mapping[str, Facts], node: str, **changes: Any) -> dict[str, Facts]:
    return {**facts, node: replace(facts[node], **changes)}


def test_a_worker_that_died_is_started_again_and_vllm_after_it() -> None:
    facts = healthy(plan())
    head, worker = plan().members
    died = (
        RayNode("10.0.0.11", "gpu-01", True, 2),
        RayNode("10.0.0.12", "gpu-02", False, 0, "health check failed"),
    )
    facts = with_facts(facts, "gpu-01", ray_nodes=died, answer=Answer(None, reason="503"))
    facts = with_facts(
        facts,
        "gpu-02",
        ray_nodes=None,
        containers=(container(plan(), worker, "ray", running=False, exit_code=1),),
    )
    assert up(plan(), facts) == [
        "Remove what is outdated",
        "  gpu-01  docker stop -t 10 serve-gpu-01",
        "  gpu-01  docker rm --force --volumes serve-gpu-01",
        "  gpu-02  docker rm --force --volumes ray-gpu-02",
        "Start Ray workers",
        f"  gpu-02  {run('gpu-02')} ray",
        "Wait for every node and GPU to join",
        f"  gpu-02  wait up to 120 s for: {run('gpu-02')} nodes",
        *PROOF,
        "Start vLLM",
        f"  gpu-01  {run('gpu-01')} serve",
        "Wait for a completion",
        f"  gpu-01  wait up to 3600 s for: {run('gpu-01')} ready",
        *AT_VLLM,
    ]
    assert head.name == "gpu-01"


def test_a_changed_flag_restarts_vllm_alone() -> None:
    after = plan({"serve.args.max_model_len": 8192})
    assert up(after, healthy(plan())) == [
        "Remove what is outdated",
        "  gpu-01  docker stop -t 10 serve-gpu-01",
        "  gpu-01  docker rm --force --volumes serve-gpu-01",
        "Write start scripts",
        *PROOF,
        "Start vLLM",
        f"  gpu-01  {run('gpu-01')} serve",
        "Wait for a completion",
        f"  gpu-01  wait up to 3600 s for: {run('gpu-01')} ready",
        *AT_VLLM,
    ]


def test_only_files_that_differ_are_written() -> None:
    after = plan({"serve.args.max_model_len": 8192})
    written = next(p for p in phases.up(after, healthy(plan())) if p.title == "Write start scripts")
    assert [(step.node, step.path) for step in written.steps if isinstance(step, Put)] == [
        ("gpu-01", ".clusterctl/demo/gpu-01/run_cluster.sh"),
        ("gpu-01", ".clusterctl/demo/gpu-01/serve.sh"),
    ]


@pytest.mark.parametrize(
    ("changes", "secrets", "before"),
    [
        ({"runtime.image": "registry.local/vllm-ray:v0.34.0"}, (), ()),
        ({}, (("HF_TOKEN", Secret("hf_another")),), SECRETS),
    ],
    ids=["another image", "another secret"],
)
def test_what_concerns_all_containers_starts_all_of_them_again(
    changes: Any, secrets: Any, before: Any
) -> None:
    assert up(plan(changes), healthy(plan(), before), secrets=secrets) == [
        "Remove what is outdated",
        "  gpu-01  docker stop -t 10 serve-gpu-01",
        "  gpu-01  docker rm --force --volumes serve-gpu-01",
        "  gpu-01  docker stop -t 10 ray-gpu-01",
        "  gpu-01  docker rm --force --volumes ray-gpu-01",
        "  gpu-02  docker stop -t 10 ray-gpu-02",
        "  gpu-02  docker rm --force --volumes ray-gpu-02",
        *up(plan(), fresh(plan())),
    ]


def test_an_environment_of_one_worker_restarts_that_worker_and_vllm() -> None:
    lines = up(plan({"nodes.1.env": {"NCCL_IB_HCA": "mlx5_4"}}), healthy(plan()))
    assert "  gpu-02  docker rm --force --volumes ray-gpu-02" in lines
    assert not [line for line in lines if "ray-gpu-01" in line]
    assert "Start Ray head" not in lines


def test_a_server_that_exited_is_started_again() -> None:
    exited = container(plan(), plan().head, "serve", running=False, exit_code=1)
    facts = healthy(plan())
    facts = with_facts(
        facts,
        "gpu-01",
        containers=(facts["gpu-01"].containers[0], exited),
        answer=Answer(None, reason="not running"),
    )
    assert up(plan(), facts) == [
        "Remove what is outdated",
        "  gpu-01  docker rm --force --volumes serve-gpu-01",
        *PROOF,
        "Start vLLM",
        f"  gpu-01  {run('gpu-01')} serve",
        "Wait for a completion",
        f"  gpu-01  wait up to 3600 s for: {run('gpu-01')} ready",
        *AT_VLLM,
    ]


def test_a_server_that_is_still_loading_is_waited_for() -> None:
    facts = with_facts(healthy(plan()), "gpu-01", answer=Answer(None, reason="Connection refused"))
    assert up(plan(), facts) == [
        "Wait for a completion",
        f"  gpu-01  wait up to 3600 s for: {run('gpu-01')} ready",
        *AT_VLLM,
    ]


def test_a_head_that_died_takes_all_with_it() -> None:
    facts = healthy(plan())
    dead = container(plan(), plan().head, "ray", running=False, exit_code=137)
    facts = with_facts(facts, "gpu-01", containers=(dead, facts["gpu-01"].containers[1]), ray_nodes=None)
    lines = up(plan(), facts)
    assert "  gpu-02  docker stop -t 10 ray-gpu-02" in lines
    assert lines[-len(up(plan(), fresh(plan()))) + 1 :] == up(plan(), fresh(plan()))[1:]


@pytest.mark.parametrize(
    ("pull", "there", "steps"),
    [
        ("missing", True, 0),
        ("missing", False, 4),
        ("always", True, 4),
        ("never", False, 0),
    ],
)
def test_the_image(pull: str, there: bool, steps: int) -> None:
    changed = plan({"runtime.pull": pull})
    facts = fresh(changed) if there else fresh(changed, image_id=None)
    found = [phase for phase in phases.up(changed, facts) if phase.title == "Get the image"]
    assert sum(len(phase.steps) for phase in found) == steps
    if found:
        image = "registry.local/vllm-ray:v0.33.0"
        assert str(found[0].steps[0]) == f"gpu-01  docker pull --quiet {image}"
        assert str(found[0].steps[1]).endswith(f"{image} -c 'import ray, vllm'")


def test_with_mp_every_node_runs_vllm_and_there_is_no_ray() -> None:
    changed = plan({"serve.executor_backend": "mp"})
    assert up(changed, fresh(changed)) == [
        "Write start scripts",
        *NETWORK,
        "Start vLLM",
        f"  gpu-01  {run('gpu-01')} serve",
        f"  gpu-02  {run('gpu-02')} serve",
        "Wait for a completion",
        f"  gpu-01  wait up to 3600 s for: {run('gpu-01')} ready",
        *AT_VLLM,
    ]


def test_with_mp_the_ranks_of_one_server_live_and_die_together() -> None:
    changed = plan({"serve.executor_backend": "mp"})
    exited = container(changed, changed.workers[0], "serve", running=False)
    facts = with_facts(healthy(changed), "gpu-02", containers=(exited,))
    assert up(changed, facts)[:9] == [
        "Remove what is outdated",
        "  gpu-01  docker stop -t 10 serve-gpu-01",
        "  gpu-01  docker rm --force --volumes serve-gpu-01",
        "  gpu-02  docker rm --force --volumes serve-gpu-02",
        *NETWORK,
        "Start vLLM",
        f"  gpu-01  {run('gpu-01')} serve",
    ]


LOCAL = "sh .clusterctl/local/local/run_cluster.sh"


def test_with_processes() -> None:
    local = plan(base=PROCESS)
    assert up(local, fresh(local)) == [
        "Write start scripts",
        "Start Ray head",
        f"  local  {LOCAL} ray",
        f"  local  wait up to 120 s for: {LOCAL} nodes",
        "Read what arrived at Ray",
        f"  local  {LOCAL} attest",
        "Start vLLM",
        f"  local  {LOCAL} serve",
        "Wait for a completion",
        f"  local  wait up to 3600 s for: {LOCAL} ready",
        "Read what arrived at vLLM",
        f"  local  {LOCAL} attest",
    ]


def test_with_processes_a_changed_flag_leaves_ray_alone() -> None:
    before, after = plan(base=PROCESS), plan({"serve.args.max_model_len": 512}, PROCESS)
    assert up(after, healthy(before))[:3] == [
        "Remove what is outdated",
        f"  local  {LOCAL} down clusterctl-local-serve",
        "Write start scripts",
    ]
    assert "Start Ray head" not in up(after, healthy(before))


# --- waiting --------------------------------------------------------------------------------------


def wait_of(title: str) -> Wait:
    (phase,) = [phase for phase in phases.up(plan(), fresh(plan())) if phase.title == title]
    (wait,) = [step for step in phase.steps if isinstance(step, Wait)]
    return wait


NODES = '{"nodes": [{"address": "10.0.0.11", "name": "gpu-01", "alive": true, "gpus": 2}]}\n'


def test_a_worker_waits_for_itself() -> None:
    wait = wait_of("Wait for every node and GPU to join")
    assert wait.pending(Result(0, NODES, "")) == "1 of 2 nodes alive, gpu-02 (10.0.0.12) is missing"
    assert wait.pending(Result(0, NODES.replace("11", "12"), "")) is None
    assert wait.pending(Result(1, "", "the Ray GCS gave no list\n")) == "the Ray GCS gave no list"


def test_a_worker_that_was_killed_does_not_pass_for_the_one_that_was_started() -> None:
    """For some 15 s Ray still counts the killed one, under an id of its own."""
    facts = healthy(plan())
    head, worker = facts["gpu-01"].ray_nodes or ()
    counted = (replace(head, id="a1"), replace(worker, id="b2"))
    gone = (container(plan(), plan().workers[0], "ray", running=False),)
    facts = with_facts(with_facts(facts, "gpu-01", ray_nodes=counted), "gpu-02", containers=gone)
    (phase,) = [p for p in phases.up(plan(), facts) if p.title == "Wait for every node and GPU to join"]
    (wait,) = [step for step in phase.steps if isinstance(step, Wait)]
    both = NODES.replace("]}", ', {"id": "b2", "address": "10.0.0.12", "alive": true, "gpus": 2}]}')
    assert wait.pending(Result(0, both, "")) is not None
    assert wait.pending(Result(0, both.replace("b2", "c3"), "")) is None


@pytest.mark.parametrize(
    "title", ["Start Ray head", "Wait for every node and GPU to join", "Wait for a completion"]
)
def test_waiting_ends_at_once_when_the_container_is_dead(title: str) -> None:
    wait = wait_of(title)
    gone = "clusterctl-demo-ray is not running: exited, exit code 1, out of memory: false"
    assert wait.failed(Result(3, "", f"{gone}\n")) == gone
    assert wait.failed(Result(1, "", "Connection refused\n")) is None
    assert wait.evidence[:3] == ("sh", f".clusterctl/demo/{wait.node}/run_cluster.sh", "logs")


# --- down -----------------------------------------------------------------------------------------


def test_down_removes_everything_and_nothing_else() -> None:
    facts = healthy(plan())
    probe = container(plan(), plan().head, "ray", id="probe-1", role="probe")
    facts = with_facts(facts, "gpu-01", containers=(*facts["gpu-01"].containers, probe))
    assert shown(phases.down(plan(), facts)) == [
        "Stop vLLM",
        "  gpu-01  docker stop -t 10 serve-gpu-01",
        "  gpu-01  docker rm --force --volumes serve-gpu-01",
        "Stop Ray",
        "  gpu-01  docker stop -t 10 ray-gpu-01",
        "  gpu-01  docker rm --force --volumes ray-gpu-01",
        "  gpu-01  docker stop -t 10 probe-1",
        "  gpu-01  docker rm --force --volumes probe-1",
        "  gpu-02  docker stop -t 10 ray-gpu-02",
        "  gpu-02  docker rm --force --volumes ray-gpu-02",
        "Remove files",
        "  gpu-01  sh -c 'rm -rf .clusterctl/demo/gpu-01"
        " && rmdir --ignore-fail-on-non-empty .clusterctl/demo .clusterctl'",
        "  gpu-02  sh -c 'rm -rf .clusterctl/demo/gpu-02"
        " && rmdir --ignore-fail-on-non-empty .clusterctl/demo .clusterctl'",
    ]


def test_down_where_nothing_is() -> None:
    assert phases.down(plan(), fresh(plan())) == ()
    local = plan(base=PROCESS)
    assert phases.down(local, fresh(local)) == ()


def test_down_after_an_up_that_only_wrote_files() -> None:
    facts = with_facts(fresh(plan()), "gpu-02", files={"env": "x"})
    assert [phase.title for phase in phases.down(plan(), facts)] == ["Remove files"]


def test_down_with_processes() -> None:
    local = plan(base=PROCESS)
    assert shown(phases.down(local, healthy(local)))[:2] == ["Stop vLLM and Ray", f"  local  {LOCAL} down"]


def test_a_secret_that_is_no_longer_in_the_inventory_leaves_the_nodes() -> None:
    before = (("HF_TOKEN", Secret("hf_old")),)
    lines = up(plan(), healthy(plan(), before))
    assert "  gpu-01  rm -f .clusterctl/demo/gpu-01/secrets.env" in lines
    assert "  gpu-02  rm -f .clusterctl/demo/gpu-02/secrets.env" in lines
    assert f"  gpu-02  {run('gpu-02')} ray" in lines


# --- what counts as outdated ------------------------------------------------------------------------


def test_an_image_that_was_built_again_under_its_name_starts_all_of_them_again() -> None:
    facts = {name: replace(fact, image_id="sha256:" + "b" * 64) for name, fact in healthy(plan()).items()}
    assert up(plan(), facts) == [
        "Remove what is outdated",
        "  gpu-01  docker stop -t 10 serve-gpu-01",
        "  gpu-01  docker rm --force --volumes serve-gpu-01",
        "  gpu-01  docker stop -t 10 ray-gpu-01",
        "  gpu-01  docker rm --force --volumes ray-gpu-01",
        "  gpu-02  docker stop -t 10 ray-gpu-02",
        "  gpu-02  docker rm --force --volumes ray-gpu-02",
        *[line for line in up(plan(), fresh(plan())) if line != "Write start scripts"],
    ]


def test_an_image_that_nobody_can_name_makes_nothing_outdated() -> None:
    facts = healthy(plan())
    unlabelled = tuple(replace(one, image="") for one in facts["gpu-01"].containers)
    assert phases.up(plan({"runtime.pull": "never"}), with_facts(facts, "gpu-02", image_id=None)) == ()
    assert phases.up(plan(), with_facts(facts, "gpu-01", containers=unlabelled)) == ()


@pytest.mark.parametrize("secrets", [(), SECRETS])
def test_where_another_operator_started_it_only_the_files_are_missing(secrets: Any) -> None:
    facts = {name: replace(fact, files={}) for name, fact in healthy(plan(), secrets).items()}
    assert up(plan(), facts, secrets=secrets) == ["Write start scripts"]


def test_a_probe_is_never_outdated() -> None:
    facts = healthy(plan())
    probe = container(plan(), plan().head, "ray", id="probe-1", role="probe", digest="")
    assert (
        phases.up(plan(), with_facts(facts, "gpu-01", containers=(*facts["gpu-01"].containers, probe))) == ()
    )


def test_the_image_is_there_before_anything_is_removed() -> None:
    another = plan({"runtime.image": "registry.local/vllm-ray:v0.34.0"})
    facts = {name: replace(fact, image_id=None, versions=None) for name, fact in healthy(plan()).items()}
    found = phases.up(another, facts)
    assert [phase.title for phase in found[:3]] == [
        "Get the image",
        "Remove what is outdated",
        "Write start scripts",
    ]
    assert [step.node for step in found[0].steps] == ["gpu-01", "gpu-01", "gpu-02", "gpu-02"]
