"""One script out, marked sections back; parsers take whatever comes and never raise."""

from __future__ import annotations

import json
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import PROCESS, plan

from cluster.facts import Fact, Facts, containers, facts_of, node, processes, read_facts, script_of, service, versions
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

    common = ["gpus", "hcas", "interfaces", "listening", "files"]
    of_containers = ["engine", "containers", "image", "versions"]
    assert names(plan(), 0) == [*containers, *common, "ray_nodes", "answer"]
    assert names(plan(), 1) == [*containers, *common, "ray_nodes"]
    assert names(plan({"serve.executor_backend": "mp"}), 1) == [*containers, *common]
    assert names(plan(base=PROCESS), 0) == ["containers", "versions", *common, "ray_nodes", "answer"]


# --- whatever a node may answer ---------------------------------------------------------------------

PARSERS = [
    *(containers.parse_engine, containers.parse_containers, containers.parse_image, versions.parse_versions),
    *(processes.parse_processes, node.parse_gpus, node.parse_hcas, node.parse_interfaces),
    *(node.parse_listening, node.parse_files, service.parse_ray_nodes, service.parse_answer),
]
KEYS = st.sampled_from(
    [
        *("State", "Config", "Labels", "Id", "Name", "Running", "ExitCode", "OOMKilled", "StartedAt"),
        *("clusterctl.role", "labels", "name", "running", "exit_code", "oom_killed", "started_at"),
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
