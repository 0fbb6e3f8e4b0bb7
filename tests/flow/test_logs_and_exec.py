"""`clusterctl logs` and `clusterctl exec`: every node's own, tagged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import FakeFleet, Outcome

from cluster import cli
from cluster.errors import ConnectionLost
from cluster.steps import Argv, Result

Clusterctl = Callable[..., Outcome]


@pytest.fixture
def logging_fleet(fleet: FakeFleet) -> FakeFleet:
    fleet.nodes["gpu-01"].logs = {
        "ray": "2026-11-21T05:00:01.5Z head starts\n2026-11-21T05:00:04Z head sees gpu-02\n",
        "serve": "2026-11-21T05:00:05Z vLLM starts\n  indented\n",
    }
    fleet.nodes["gpu-02"].logs = {"ray": "2026-11-21T05:00:03Z worker starts\n"}
    return fleet


@pytest.mark.usefixtures("logging_fleet")
def test_logs_of_all_nodes_in_time_order(clusterctl: Clusterctl) -> None:
    assert clusterctl("logs").lines == [
        "2026-11-21T05:00:01.500 gpu-01 ray   head starts",
        "2026-11-21T05:00:03.000 gpu-02 ray   worker starts",
        "2026-11-21T05:00:04.000 gpu-01 ray   head sees gpu-02",
        "2026-11-21T05:00:05.000 gpu-01 serve vLLM starts",
        "2026-11-21T05:00:05.000 gpu-01 serve   indented",
    ]


def test_logs_of_one_node_since_a_time_in_json(clusterctl: Clusterctl, logging_fleet: FakeFleet) -> None:
    outcome = clusterctl("logs", "--node", "gpu-02", "--since", "10m", "--json")
    assert outcome.events == [
        {"time": "2026-11-21T05:00:03.000000000", "node": "gpu-02", "role": "ray", "text": "worker starts"}
    ]
    assert logging_fleet.steps() == {
        "gpu-01": [],
        "gpu-02": ["gpu-02  sh .clusterctl/demo/gpu-02/run_cluster.sh logs ray --since 600s"],
    }


@pytest.mark.parametrize("follow", [(), ("--follow",)])
def test_logs_of_the_others_where_a_node_cannot_be_reached(
    clusterctl: Clusterctl, logging_fleet: FakeFleet, follow: tuple[str, ...]
) -> None:
    logging_fleet.nodes["gpu-01"].unreachable = "no answer from 10.0.0.11:22 within 10 s: is the node up?"
    said = "2026-11-21T05:00:03.000 gpu-02 ray   worker starts\n"
    complaint = "error: gpu-01: no answer from 10.0.0.11:22 within 10 s: is the node up?\n"
    assert clusterctl("logs", *follow) == Outcome(4, said, complaint)


def test_logs_of_the_others_where_a_line_breaks(clusterctl: Clusterctl, logging_fleet: FakeFleet) -> None:
    def special(_: Argv) -> Result:
        raise ConnectionLost("the connection broke while a command ran")

    logging_fleet.nodes["gpu-01"].special = special
    assert clusterctl("logs") == Outcome(
        4,
        "2026-11-21T05:00:03.000 gpu-02 ray   worker starts\n",
        "error: gpu-01: the connection broke while a command ran\n",
    )


def test_a_log_that_is_not_there_prints_nothing(clusterctl: Clusterctl, logging_fleet: FakeFleet) -> None:
    gone = Result(1, "Error: No such container: clusterctl-demo-serve\n", "")
    head = logging_fleet.nodes["gpu-01"]
    head.special = lambda argv: gone if argv[2:4] == ("logs", "serve") else None
    outcome = clusterctl("logs")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.lines == [
        "2026-11-21T05:00:01.500 gpu-01 ray   head starts",
        "2026-11-21T05:00:03.000 gpu-02 ray   worker starts",
        "2026-11-21T05:00:04.000 gpu-01 ray   head sees gpu-02",
    ]


def test_exec_everywhere(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    outcome = clusterctl("exec", "--", "ls", "-la", "a b; $(id)")
    assert outcome == Outcome(
        0, "gpu-01  gpu-01 ls -la 'a b; $(id)'\ngpu-02  gpu-02 ls -la 'a b; $(id)'\n", ""
    )
    assert fleet.steps()["gpu-02"] == [
        "gpu-02  sh .clusterctl/demo/gpu-02/run_cluster.sh exec ls -la 'a b; $(id)'"
    ]


def test_exec_on_one_node(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    assert clusterctl("exec", "--node", "gpu-02", "--", "true").lines == ["gpu-02  gpu-02 true"]
    assert fleet.opened == ["gpu-02"]


def test_exec_says_which_node_failed(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.nodes["gpu-02"].special = lambda _: Result(7, "out\n", "err\n")
    outcome = clusterctl("exec", "--", "false")
    assert (outcome.code, outcome.err) == (1, "error: gpu-02 exited 7\n")
    assert outcome.lines == ["gpu-01  gpu-01 false", "gpu-02  out", "gpu-02  err"]
    assert clusterctl("exec", "--json", "--", "false").events[1] == {
        "node": "gpu-02",
        "exit_code": 7,
        "stdout": "out\n",
        "stderr": "err\n",
    }


def test_exec_where_a_line_breaks(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    def special(_: Argv) -> Result:
        raise ConnectionLost("the connection broke while a command ran")

    fleet.nodes["gpu-02"].special = special
    outcome = clusterctl("exec", "--", "true")
    assert (outcome.code, outcome.err) == (1, "error: gpu-02 exited 255\n")
    assert "gpu-02  the connection broke while a command ran" in outcome.lines


@pytest.mark.parametrize("command", [("logs",), ("exec", "--", "ls")])
def test_an_unknown_node(clusterctl: Clusterctl, fleet: FakeFleet, command: tuple[str, ...]) -> None:
    name, *rest = command
    outcome = clusterctl(name, "--node", "gpu-03", *rest)
    assert outcome == Outcome(2, "", "error: --node gpu-03: no such node; the nodes are gpu-01, gpu-02\n")
    assert fleet.opened == []


# --- commands that contact nobody -------------------------------------------------------------------


def test_render_writes_what_up_puts_on_the_nodes(
    clusterctl: Clusterctl, fleet: FakeFleet, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    outcome = clusterctl("render", "-o", str(out))
    assert (outcome.code, fleet.opened) == (0, [])
    clusterctl("up")
    for name, node in fleet.nodes.items():
        written = {
            str(p.relative_to(out / name)): p.read_text() for p in (out / name).rglob("*") if p.is_file()
        }
        assert written | {"generation": "1\n"} == node.files
    assert (out / "gpu-01/run_cluster.sh").stat().st_mode & 0o777 == 0o755


def test_render_where_nothing_can_be_written(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    outcome = clusterctl("render", "-o", str(fleet.file))
    assert outcome.code == 2
    assert outcome.err == f"error: cannot write {fleet.file}/gpu-01: Not a directory\n"


def test_the_schema_accepts_every_example(capsys: pytest.CaptureFixture[str]) -> None:
    import jsonschema
    import yaml

    assert cli.main(["inventory", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    examples = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
    for example in examples:
        jsonschema.validate(yaml.safe_load(example.read_text()), schema)


def test_check_says_what_an_inventory_means(fleet: FakeFleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inventory", "check", str(fleet.file)]) == 0
    assert capsys.readouterr().out == (
        "demo: llama on 2 nodes, tensor parallel size 2 × pipeline parallel size 2, "
        "head gpu-01, http://10.0.0.11:8000/v1\n"
    )
