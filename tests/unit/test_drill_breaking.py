"""How each thing is broken, and where it cannot be."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from samples import GOOD

from cluster.cli_drill import KILLS as OFFERED
from cluster.drilling.breaking import KILLS, LEAD, Break, Kill, breaking
from cluster.errors import UsageError
from cluster.inventory import parse
from cluster.plan import Plan, make_plan


def plan(text: str = GOOD) -> Plan:
    return make_plan(parse(text, "test.yaml"))


def broken(kill: Kill, node: str | None = None) -> Break:
    return breaking(plan(), kill, node, 60)


def test_the_command_line_offers_what_there_is() -> None:
    assert OFFERED == KILLS


@pytest.mark.parametrize(
    ("kill", "node", "argv"),
    [
        ("worker", "gpu-02", ("docker", "kill", "clusterctl-demo-ray")),
        ("head", "gpu-01", ("docker", "kill", "clusterctl-demo-ray")),
        ("server", "gpu-01", ("docker", "kill", "clusterctl-demo-serve")),
    ],
)
def test_containers_are_killed_where_they_are(kill: Kill, node: str, argv: tuple[str, ...]) -> None:
    found = broken(kill)
    assert (found.node, found.step.argv, found.lead) == (node, argv, 0.0)


def test_the_engine_is_a_process_in_the_servers_container() -> None:
    found = broken("engine")
    assert found.node == "gpu-01"
    assert found.step.argv[:5] == ("docker", "exec", "clusterctl-demo-serve", "sh", "-c")
    assert found.what == "SIGKILL to VLLM::EngineCore"


def test_a_link_is_armed_before_it_goes_down_and_comes_back_by_itself() -> None:
    found = breaking(plan(), "link", "gpu-01", 42.5)
    assert (found.node, found.lead, found.seconds) == ("gpu-01", LEAD, 42.5)
    assert found.step.argv[-3:] == ("10.0.0.11", "3", "42.5")
    assert broken("link").node == "gpu-02"


@pytest.mark.parametrize(
    ("kill", "node", "said"),
    [
        ("worker", "gpu-01", "--node gpu-01: no worker to break there, but on gpu-02"),
        ("head", "gpu-02", "--node gpu-02: no head to break there, but on gpu-01"),
        ("engine", "gpu-02", "no engine to break there"),
        ("link", "gpu-09", "--node gpu-09: no link to break there, but on gpu-01, gpu-02"),
    ],
)
def test_what_a_node_does_not_have(kill: Kill, node: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        broken(kill, node)


def test_one_node_has_no_worker() -> None:
    alone = replace(plan(), members=plan().members[:1])
    with pytest.raises(UsageError, match="demo has no worker: it is one node"):
        breaking(alone, "worker", None, 60)


def run(argv: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=20)


def test_loopback_is_never_taken_down() -> None:
    argv = broken("link").step.argv
    refused = run((*argv[:4], "127.0.0.1", "0", "0"))
    assert (refused.returncode, refused.stderr) == (
        1,
        "no interface but loopback carries 127.0.0.1 here: nothing to take down\n",
    )


def processes(folder: Path, **titles: str) -> str:
    """The program that looks for the engine, over a /proc of these; it names whom it would kill."""
    for number, title in titles.items():
        (folder / number.strip("_")).mkdir()
        (folder / number.strip("_") / "cmdline").write_bytes(title.replace(" ", "\0").encode())
    program = broken("engine").step.argv[-1]
    assert program.count("/proc/") == 2
    assert program.count("kill -s KILL") == 1
    return program.replace("/proc/", f"{folder}/").replace("kill -s KILL", "echo")


def test_the_engine_process_is_found_by_its_title(tmp_path: Path) -> None:
    program = processes(tmp_path, _1="sh serve.sh", _41="VLLM::EngineCore", _42="VLLM::Worker_TP0", _43="")
    done = run(("sh", "-c", program))
    assert (done.returncode, done.stdout, done.stderr) == (0, "41\n", "")


def test_without_an_engine_process_it_says_why(tmp_path: Path) -> None:
    refused = run(("sh", "-c", processes(tmp_path, _1="sh serve.sh")))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "no process VLLM::EngineCore: the engine runs in the server's own" in refused.stderr
