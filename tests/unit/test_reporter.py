"""What the user sees: plain lines, JSON lines, tables."""

from __future__ import annotations

import json
import re

import pytest

from cluster import console
from cluster.apply import Event, PhaseDone, PhaseJudged, PhaseStarted, StepDone, StepStarted, StepWaiting
from cluster.errors import Problem, Verdict
from cluster.reporter import JsonReporter, LiveReporter, PlainReporter, Reporter, reporter
from cluster.steps import Judgement, Phase, Put, Run, Secret, Wait

RUN = Run("gpu-01", ("sh", "run_cluster.sh", "ray"))
PUT = Put("gpu-01", "secrets.env", Secret("A=b"), 0o600)
WAIT = Wait("gpu-02", ("sh", "run_cluster.sh", "nodes"), pending=lambda _: None, timeout=120.0)
PHASE = Phase("Start Ray", (RUN, WAIT))

EVENTS: tuple[Event, ...] = (
    PhaseStarted(PHASE, 2, 8),
    StepStarted(RUN),
    StepDone(RUN, 0.51234),
    StepStarted(PUT),
    StepWaiting(WAIT, "gpu-02 is [missing]", 0.1),
    StepWaiting(WAIT, "gpu-02 is [missing]", 1.9),
    StepWaiting(WAIT, "gpu-02 joined with 1 of 2 GPUs", 3.6),
    PhaseDone(PHASE, 4.04, 0.0042),
)


def said_by(one: Reporter, capsys: pytest.CaptureFixture[str]) -> list[str]:
    with one as report:
        for event in EVENTS:
            report(event)
    return capsys.readouterr().out.splitlines()


def test_plain_lines_speak_of_a_wait_when_its_reason_changes(capsys: pytest.CaptureFixture[str]) -> None:
    assert said_by(PlainReporter(), capsys) == [
        "[2/8] Start Ray (gpu-01, gpu-02)",
        "      gpu-02: gpu-02 is [missing] (0 s)",
        "      gpu-02: gpu-02 joined with 1 of 2 GPUs (4 s)",
        "      done in 4.0 s",
    ]


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    run = {"node": "gpu-01", "step": "run", "argv": list(RUN.argv), "command": "sh run_cluster.sh ray"}
    wait = {"node": "gpu-02", "step": "wait", "argv": list(WAIT.argv), "command": "sh run_cluster.sh nodes"}
    events = [json.loads(line) for line in said_by(JsonReporter(), capsys)]
    assert events[:5] == [
        {"event": "phase_started", "phase": "Start Ray", "number": 2, "of": 8, "nodes": ["gpu-01", "gpu-02"]},
        {"event": "step_started", **run},
        {"event": "step_done", **run, "seconds": 0.512},
        {"event": "step_started", "node": "gpu-01", "step": "put", "path": "secrets.env", "mode": "0600"},
        {"event": "waiting", **wait, "why": "gpu-02 is [missing]", "seconds": 0.1},
    ]
    assert events[-1] == {"event": "phase_done", "phase": "Start Ray", "seconds": 4.04, "own_seconds": 0.004}


ERROR = Problem("transport-unmet", "gpu-01", "socket", "ib", "Look")
WARNING = Problem("network-slow", "gpu-02", "1 GB/s", "50 GB/s", "Run `ethtool eth0`", "warning")
JUDGED = PhaseJudged(
    PHASE,
    Judgement(
        Verdict((ERROR,), (WARNING,)),
        lines=("half of [what] it could be",),
        tables=((("node", "rate"), (("gpu-02", "1 GB/s"),)),),
        content={"verdict": "socket"},
    ),
)


@pytest.mark.parametrize("one", [PlainReporter(), LiveReporter()], ids=["plain", "live"])
def test_a_judgement_is_shown_but_for_its_errors(one: Reporter, capsys: pytest.CaptureFixture[str]) -> None:
    """Those the exception says that they end in."""
    with one as report:
        report(JUDGED)
    said = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in said if line] == [
        "node     rate",
        "gpu-02   1 GB/s",
        "      half of [what] it could be",
        "warning  gpu-02  1 GB/s; expected: 50 GB/s [network-slow]",
        "  Run `ethtool eth0`",
    ]


def test_a_judgement_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    with JsonReporter() as report:
        report(JUDGED)
    judged, error, warning = map(json.loads, capsys.readouterr().out.splitlines())
    assert judged == {"event": "judged", "phase": "Start Ray", "verdict": "socket"}
    assert (error["event"], error["id"], error["severity"]) == ("error", "transport-unmet", "error")
    assert (warning["event"], warning["node"]) == ("warning", "gpu-02")


def test_a_live_display_keeps_the_phases(capsys: pytest.CaptureFixture[str]) -> None:
    said = said_by(LiveReporter(), capsys)
    assert [line.strip() for line in said if line.strip()][-2:] == ["2/8 Start Ray", "✓ 4.0 s"]


def test_a_pipe_gets_plain_lines() -> None:
    assert isinstance(reporter(as_json=False), PlainReporter)
    assert isinstance(reporter(as_json=True), JsonReporter)


def test_a_dry_run_shows_no_contents(capsys: pytest.CaptureFixture[str]) -> None:
    console.dry_run((Phase("Write", (PUT,)), PHASE), as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "1. Write",
        "   gpu-01  write secrets.env (mode 0600, 3 bytes)",
        "2. Start Ray",
        "   gpu-01  sh run_cluster.sh ray",
        "   gpu-02  wait up to 120 s for: sh run_cluster.sh nodes",
    ]
    console.dry_run((Phase("Write", (PUT,)),), as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "event": "phase",
        "phase": "Write",
        "steps": [{"node": "gpu-01", "step": "put", "path": "secrets.env", "mode": "0600"}],
    }


def test_an_error_keeps_its_lines_and_its_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    console.complain("i.yaml:1: [red]x[/red]\n  gpu-01  [[gpu]] " + "long " * 40)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: i.yaml:1: [red]x[/red]\n  gpu-01  [[gpu]] " + "long " * 40 + "\n")


def test_a_table_in_a_pipe_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(("node", "state"), [("gpu-01", "x" * 150), ("gpu-02", "[b]")])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["node", "state"], ["gpu-01", "x" * 150], ["gpu-02", "[b]"]]


def test_a_moment_stays_whole_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    moment = "2026-11-21T05:24:26Z"
    console.table(("generation", "began", "changed"), [("1 *", moment, "word " * 20)])
    lines = capsys.readouterr().out.splitlines()
    assert moment in lines[1]
    assert len(lines) > 3  # what may be folded is
    assert max(len(re.sub(r"\x1b\[\d*m", "", line)) for line in lines) <= 60


def test_json_is_one_line_and_keeps_its_letters(capsys: pytest.CaptureFixture[str]) -> None:
    console.emit({"a": "é\n×"})
    assert capsys.readouterr().out == '{"a": "é\\n×"}\n'
