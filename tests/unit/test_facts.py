"""One script out, marked sections back; parsers take whatever comes and never raise."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import PROCESS, plan

from cluster.facts import (
    Fact,
    Facts,
    containers,
    facts_of,
    gpu,
    inside,
    node,
    processes,
    rdma,
    read_facts,
    script_of,
    service,
    system,
    what_is_ours,
    what_serves,
)
from cluster.health import health
from cluster.plan import Plan
from cluster.steps import Result


def kept(result: Result) -> dict[str, str]:
    """A parser that keeps what it was given."""
    return {"engine_error": f"{result.exit_code}:{result.stdout}"}


def through_sh(*commands: str) -> list[str]:
    facts = tuple(Fact(f"fact{number}", command, kept) for number, command in enumerate(commands))
    output = subprocess.run(["sh", "-s"], input=script_of(facts), capture_output=True, text=True, check=True)
    assert output.stderr == ""
    return [read_facts((fact,), output.stdout).engine_error for fact in facts]


def test_every_command_comes_back_with_its_output_and_its_exit_code() -> None:
    assert through_sh(
        "echo one",
        "printf 'no newline'",
        "echo out; echo err >&2; exit 7",
        "exit",
        "false",
        "cat",
        "no-such-program-anywhere 2>/dev/null",
        "printf '\\n\\ntext\\n\\n'",
        "x=1; cd /; echo 'it'\"'\"'s'",
    ) == [
        "0:one\n",
        "0:no newline",
        "7:out\nerr\n",
        "0:",
        "1:",
        "0:",
        "127:",
        "0:\n\ntext\n\n",
        "0:it's\n",
    ]


def test_a_command_that_hangs_is_ended_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.facts.LONGEST", 0.2)
    assert through_sh("echo begun; exec sleep 60", "echo on") == ["124:begun\n", "0:on\n"]


def test_a_section_that_is_cut_off_is_absent() -> None:
    facts = (Fact("a", "echo a", kept), Fact("b", "echo b", kept))
    output = subprocess.run(["sh", "-s"], input=script_of(facts), capture_output=True, text=True).stdout
    half = output[: output.index("\nb\n") + 2]
    assert read_facts(facts[1:], half) == Facts()
    assert read_facts(facts, half).engine_error == "0:a\n"


@pytest.mark.parametrize(
    "plan",
    [plan(), plan(base=PROCESS), plan({"runtime.engine": "podman"}), plan({"serve.executor_backend": "mp"})],
)
def test_the_script_of_every_member_is_shell(plan: Plan) -> None:
    for member in plan.members:
        script = script_of(facts_of(plan, member))
        assert subprocess.run(["sh", "-n"], input=script, text=True).returncode == 0


def test_which_facts_are_asked_of_whom() -> None:
    def names(plan: Plan, rank: int) -> list[str]:
        return [fact.name for fact in facts_of(plan, plan.members[rank])]

    ours = ["engine", "ids", "containers", "files"]
    image = ["ignored", "name_conflicts", "image", "engine_setup", "disks", "inside"]
    gpus = ["gpus", "gpu_processes", "cuda_version", "xids", "fabric", "amd"]
    common = ["system", *gpus, "hcas", "gpudirect", "topology", "acs", "interfaces", "listening"]

    def between_clocks(*names: str) -> list[str]:
        return ["clock_began", *names, "clock_ended"]

    asked_of_head = ("ray_nodes", "answer", "kv_cache", "last_words")
    assert names(plan(), 0) == between_clocks(*ours, *image, *common, *asked_of_head)
    assert names(plan(), 1) == between_clocks(*ours, *image, *common, "ray_nodes")
    with_mp = plan({"serve.executor_backend": "mp"})
    assert names(with_mp, 0) == between_clocks(*ours, *image, *common, *asked_of_head[1:])
    assert names(with_mp, 1) == between_clocks(*ours, *image, *common, "last_words")
    local = plan(base=PROCESS)
    of_processes = ["containers", "files"]
    of_a_cpu = ("ignored", "inside", "disks", "system", "interfaces", "listening")
    assert names(local, 0) == between_clocks(*of_processes, *of_a_cpu, *asked_of_head)
    assert [fact.name for fact in what_is_ours(plan(), plan().head)] == ours
    assert [fact.name for fact in what_is_ours(local, local.head)] == of_processes
    assert [fact.name for fact in what_serves(plan(), plan().head)] == [
        *ours,
        "ignored",
        "gpus",
        "inside",
        *asked_of_head,
    ]


def asked(plan: Plan, name: str, rank: int = 0) -> str:
    return next(fact.command for fact in facts_of(plan, plan.members[rank]) if fact.name == name)


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_what_serves_is_asked_in_the_containers_whoever_started_them(engine: str) -> None:
    with_engine = plan({"runtime.engine": engine})
    enter, programs = "sh /clusterctl/enter.sh python3", "/clusterctl/on_node"
    assert asked(with_engine, "ray_nodes", 1) == (
        f"{engine} exec clusterctl-demo-ray {enter} {programs}/ray_nodes.py 10.0.0.11:6379"
    )
    assert asked(with_engine, "answer") == (
        f"{engine} exec clusterctl-demo-serve {enter} {programs}/completion.py "
        "--url http://10.0.0.11:8000 --model llama --timeout 20"
    )


def test_processes_are_asked_by_their_own_script() -> None:
    local = plan(base=PROCESS)
    script = 'sh "$HOME"/.clusterctl/local/local/run_cluster.sh'
    assert asked(local, "ray_nodes") == f"{script} nodes"
    assert asked(local, "answer") == f"{script} ask --timeout 20"
    assert asked(local, "last_words") == f"{script} running serve || {script} logs serve --tail 400"


def test_every_command_has_a_limit_and_nothing_to_read() -> None:
    facts = facts_of(plan(), plan().head)
    script = script_of(facts)
    slow = [fact for fact in facts if not fact.quick]
    assert script.count("timeout -k 5 30 sh -c ") == len(slow)
    assert script.count("</dev/null 2>&1") == len(facts)


@pytest.mark.parametrize(
    ("said", "words"),
    [("", ""), ("false\n", "log of clusterctl-demo-serve\n"), ("true\n", "")],
    ids=["not there", "exited", "running"],
)
def test_only_a_server_that_is_not_running_has_last_words(tmp_path: Path, said: str, words: str) -> None:
    docker = tmp_path / "docker"
    docker.write_text(
        '#!/bin/sh\ncase $1 in\n  logs) for last; do :; done; echo "log of $last" ;;\n'
        f"  inspect) printf %s '{said}' ;;\nesac\n"
    )
    docker.chmod(0o755)
    result = subprocess.run(
        ["sh", "-c", asked(plan(), "last_words")],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "CLUSTERCTL_CONTAINERS": "1"},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, words, "")


# --- whatever a node may answer ---------------------------------------------------------------------

PARSERS = [
    *(containers.parse_engine, containers.parse_containers, containers.parse_image, inside.parse_inside),
    *(processes.parse_processes, gpu.parse_gpus, rdma.parse_hcas, node.parse_interfaces),
    *(node.parse_listening, node.parse_files, service.parse_ray_nodes, service.parse_answer),
    *(service.parse_last_words, service.parse_kv_cache, node.parse_ignored, system.parse_system),
    *(system.parse_disks, system.parse_clock_began, gpu.parse_gpu_processes, gpu.parse_cuda_version),
    *(gpu.parse_xids, gpu.parse_fabric, gpu.parse_amd, rdma.parse_gpudirect, rdma.parse_topology),
    *(rdma.parse_acs, containers.parse_name_conflicts, containers.parse_engine_setup),
]
KEYS = st.sampled_from(
    [
        *("State", "Config", "Labels", "Id", "Name", "Running", "ExitCode", "OOMKilled", "StartedAt"),
        *(
            "Image",
            "clusterctl.port",
            "clusterctl.role",
            "labels",
            "name",
            "running",
            "exit_code",
            "oom_killed",
            "started_at",
        ),
        *("nodes", "address", "alive", "gpus", "reason", "answer", "seconds", "python", "ray", "vllm"),
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES | st.sampled_from(["ray", "serve"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
OUTPUT = (
    st.text(max_size=40)
    | VALUES.map(json.dumps)
    | VALUES.map(lambda value: f"noise\n{json.dumps([value])}\n")
)


@settings(max_examples=40, deadline=None)
@given(OUTPUT, st.integers(0, 255))
def test_parsers_never_raise_and_what_they_understood_is_a_fact(output: str, code: int) -> None:
    result = Result(code, output, "")
    values = {key: value for parse in PARSERS for key, value in parse(result).items()}
    facts = Facts(**values)
    health(plan(), {"gpu-01": facts, "gpu-02": facts}, {})


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=20), st.text(max_size=6))
def test_whatever_comes_back_is_read(noise: str, code: str) -> None:
    facts = facts_of(plan(), plan().head)
    read_facts(facts, f"\n=== clusterctl fact gpus\n{noise}\n=== clusterctl exit {code}\n")


@pytest.mark.parametrize("code", ["²", "9" * 5000, "-1", "", "1x"])
def test_an_exit_code_that_is_none_makes_the_section_absent(code: str) -> None:
    output = f"\n=== clusterctl fact a\nx\n\n=== clusterctl exit {code}\n"
    assert read_facts((Fact("a", "", kept),), output) == Facts()


@pytest.mark.parametrize("gpus", ["1e999", "NaN", "1" + "0" * 400, '"2"', "null", "true"])
def test_a_number_of_gpus_that_is_none_counts_as_none(gpus: str) -> None:
    nodes = f'{{"nodes": [{{"address": "10.0.0.11", "alive": true, "gpus": {gpus}}}]}}'
    assert service.parse_ray_nodes(Result(0, nodes, ""))["ray_nodes"][0].gpus == 0.0


def test_a_container_says_which_image_and_port_it_has() -> None:
    labels = {f"clusterctl.{key}": value for key, value in {"role": "serve", "port": "8000"}.items()}
    inspected = [{"Id": "0123456789abcdef", "Image": "sha256:aa", "Config": {"Labels": labels}}]
    (found,) = containers.parse_containers(Result(0, json.dumps(inspected), ""))["containers"]
    assert (found.id, found.role, found.image, found.port) == ("0123456789ab", "serve", "sha256:aa", "8000")


def test_last_words_are_an_excerpt_and_absent_where_the_log_cannot_be_had() -> None:
    log = "2026-11-21T05:24:26Z RuntimeError: no NCCL\n"
    assert service.parse_last_words(Result(0, log, "")) == {"last_words": "RuntimeError: no NCCL"}
    assert service.parse_last_words(Result(127, "sh: 1: docker: not found\n", "")) == {}


def test_containers_that_could_not_be_asked_for_are_not_taken_for_none() -> None:
    assert containers.parse_containers(Result(1, "Cannot connect to the Docker daemon\n", "")) == {
        "containers": (),
        "engine_error": "Cannot connect to the Docker daemon",
    }
    assert containers.parse_containers(Result(0, "[]\n", "")) == {"containers": ()}
