"""The logs of a node: the commands that ask for them, and the lines in what comes back."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import PROCESS, plan

from cluster.doctor.sources import NodeLogs, between_nodes, questions, read_answers, skew_of
from cluster.facts import script_of
from cluster.log_lines import LogLine

PLAN = plan()
NOW = datetime(2026, 11, 21, 6, 0, tzinfo=UTC)


def answers(**sections: str) -> str:
    return "".join(
        f"\n=== clusterctl fact {name}\n{text}\n=== clusterctl exit 0\n" for name, text in sections.items()
    )


def read(output: str) -> NodeLogs:
    return read_answers(PLAN.head, output, NOW)


@pytest.mark.parametrize("changes", [{}, {"runtime.engine": "podman"}, {"serve.executor_backend": "mp"}])
def test_the_questions_are_one_script(changes: dict[str, str]) -> None:
    asked = plan(changes)
    for member in asked.members:
        script = script_of(questions(asked, member))
        assert subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True).stderr == ""
        names = [question.name for question in questions(asked, member)]
        assert ("log_ray" in names) == asked.uses_ray
        assert ("log_serve" in names) == (member in asked.servers)


def test_the_questions_about_processes() -> None:
    asked = plan(base=PROCESS)
    (member,) = asked.members
    script = script_of(questions(asked, member))
    assert subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True).stderr == ""
    assert "run_cluster.sh logs serve" in script and "docker" not in script


def test_a_long_log_is_asked_for_by_its_two_ends() -> None:
    (question,) = (one for one in questions(PLAN, PLAN.head) if one.name == "log_serve")
    command = question.command.replace("docker logs --timestamps clusterctl-demo-serve", "seq 30000")
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    numbers = [int(line) for line in done.stdout.split()]
    assert numbers == [*range(1, 2_001), *range(10_001, 30_001)]


def test_states_become_sentences() -> None:
    state = (
        "/clusterctl-demo-ray exited 137 true 2026-11-21T05:20:00.1Z 2026-11-21T05:24:26.5Z sha256:aaa \n"
        "/clusterctl-demo-serve created 127 false 0001-01-01T00:00:00Z 0001-01-01T00:00:00Z sha256:bbb "
        "no sh: unknown\n"
        "Error: No such object: x\n"
    )
    logs = read(answers(state=state))
    assert logs.lines == (
        LogLine(
            "2026-11-21T05:24:26.500000000",
            "gpu-01",
            "container",
            "container clusterctl-demo-ray: exited, exit code 137, out of memory: true",
        ),
        LogLine(
            "",
            "gpu-01",
            "container",
            "container clusterctl-demo-serve: created, exit code 127, out of memory: false, no sh: unknown",
        ),
    )
    assert logs.images == {"clusterctl-demo-ray": "sha256:aaa", "clusterctl-demo-serve": "sha256:bbb"}


def test_processes_become_sentences() -> None:
    labels = {"clusterctl.role": "ray", "clusterctl.node": "local", "clusterctl.digest": "d"}
    ran = {"name": "p-ray", "labels": labels, "running": False, "exit_code": -9, "oom_killed": False}
    (line,) = read(answers(processes=json.dumps([ran]))).lines
    assert line.text == "container p-ray: exited, exit code -9, out of memory: false"


def test_ports_become_sentences() -> None:
    (line,) = read(answers(ports="/sys/class/infiniband/mlx5_0/ports/1/state:4: ACTIVE\n")).lines
    assert line.text == "mlx5_0 port 1: 4: ACTIVE"


def test_a_section_that_is_cut_off_counts() -> None:
    cut = "\n=== clusterctl fact log_ray\n2026-11-21T05:24:26Z one\n2026-11-21T05:24:27Z tw"
    assert [line.text for line in read(cut).lines] == ["one", "tw"]


@given(st.text())
def test_any_answer_is_read(text: str) -> None:
    read(text)
    names = ("state", "kernel", "processes", "ports", "log_ray", "session", "clock_began", "hostname")
    read(answers(**dict.fromkeys(names, text)))


def test_clock_skew() -> None:
    assert skew_of(NodeLogs(began=110.5, ended=111.5), asked=100.0, answered=102.0) == 10.0
    assert skew_of(NodeLogs(), asked=100.0, answered=102.0) == 0.0


def test_what_only_shows_between_nodes() -> None:
    by_node = {
        "gpu-01": NodeLogs(hostname="a", images={"ray": "1"}),
        "gpu-02": NodeLogs(hostname="a", images={"ray": "2"}),
        "gpu-03": NodeLogs(hostname="c", images={"ray": "1"}),
    }
    said = [line.text for line in between_nodes(by_node, {"gpu-03": -95.04, "gpu-01": 1.9})]
    assert said == [
        "gpu-01 and gpu-02 have one hostname: a",
        "gpu-01 and gpu-02 run different images: 1, 2",
        "the clock of gpu-03 is 95.0 s behind",
    ]
