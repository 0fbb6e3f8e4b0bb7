"""What goes around every command that changes something: the lock, the audit, hooks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import FakeFleet, Outcome
from samples import GOOD

from cluster import fleet as lines
from cluster.errors import ConnectionLost
from cluster.holding import holding
from cluster.inventory import load
from cluster.steps import Result

Clusterctl = Callable[..., Outcome]


def test_up_and_down_are_written_down_on_every_node(clusterctl: Clusterctl) -> None:
    assert clusterctl("up").code == clusterctl("down", "--yes").code == 0
    acts = clusterctl("audit", "--json").events
    assert [(act["command"], act["exit_code"], act["result"]) for act in acts] == [
        ("up", 0, "done"),
        ("down", 0, "done"),
    ]
    assert acts[0]["epoch"] < acts[1]["epoch"]
    assert all(act["nodes"] == ["gpu-01", "gpu-02"] and "@" in act["who"] for act in acts)


def test_a_failure_is_written_down_with_its_exit_code(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.nodes["gpu-02"].special = lambda argv: Result(1, "", "no\n") if argv[-1] == "ray" else None
    failed = clusterctl("up")
    assert failed.code == 7
    (act,) = clusterctl("audit", "--json").events
    assert act["exit_code"] == 7
    assert act["result"] == failed.err.splitlines()[0].removeprefix("error: ")


def test_what_changes_nothing_is_not_written_down(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    clusterctl("up")
    assert clusterctl("up").out.startswith("nothing to do")
    fleet.facts = {"gpu-01": {"inside": Result(0, '{"python": "3.12.3"}\n', "")}}
    for command in ("up", "--dry-run"), ("verify",), ("status",), ("diff",):
        clusterctl(*command)
    assert len(clusterctl("audit", "--json").events) == 1


def test_what_a_node_cannot_tell_is_said(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    assert clusterctl("audit").out.startswith("nothing was ever changed")
    clusterctl("up")
    fleet.nodes["gpu-02"].unreachable = "no answer from 10.0.0.12:22 within 10 s: is the node up?"
    fleet.nodes["gpu-01"].kept["audit.jsonl"] += '{"id": "half'
    outcome = clusterctl("audit")
    assert outcome.code == 4
    assert "gpu-02: no answer" in outcome.err
    assert "gpu-01: 1 line of ~/.local/state/clusterctl/demo/gpu-01/audit.jsonl cannot be read" in outcome.err
    assert "up" in outcome.lines[1]


def test_a_node_that_holds_the_lock_and_does_not_say_what_it_keeps_ends_it(
    clusterctl: Clusterctl, fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert clusterctl("up").code == 0
    node = fleet.nodes["gpu-02"]
    answer = node._records

    def silent(script: str) -> Result:
        if not node.lock.state.released and "outcome.json" in script:
            raise ConnectionLost("no end after 60 s")
        return answer(script)

    monkeypatch.setattr(node, "_records", silent)
    outcome = clusterctl("restart", "--yes")
    assert outcome.code == 4
    assert "gpu-02  it took the lock, and does not say what it keeps" in outcome.err
    assert clusterctl("down", "--yes").code == 0


@pytest.fixture
def said(tmp_path: Path, fleet: FakeFleet) -> Path:
    """A file to which hooks add a line each: which, of what, how it ended."""
    file = tmp_path / "said"
    line = f'echo "%s $CLUSTERCTL_COMMAND $CLUSTERCTL_CLUSTER $CLUSTERCTL_EXIT_CODE" >> {file}'
    keys = [f"{when}_{command}" for when in ("before", "after") for command in ("up", "down")]
    fleet.write(GOOD + f"hooks: {json.dumps({key: [line.replace('%s', key)] for key in keys})}\n")
    return file


def test_hooks_run_around_what_changes_something(
    clusterctl: Clusterctl, fleet: FakeFleet, said: Path
) -> None:
    clusterctl("up")
    clusterctl("up")  # nothing to do, and nothing to tell
    fleet.nodes["gpu-01"].special = lambda argv: Result(1, "", "busy\n") if argv[1] == "stop" else None
    assert clusterctl("down", "--yes").code == 7
    assert said.read_text().splitlines() == [
        "before_up up demo ",
        "after_up up demo 0",
        "before_down down demo ",
        "after_down down demo 7",
    ]


def test_a_hook_that_fails_before_stops_it(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.write(GOOD + "hooks: {before_up: ['exit 3']}\n")
    outcome = clusterctl("up")
    assert outcome.code == 5
    assert outcome.err.startswith("error: hooks.before_up: `exit 3` exited 3; nothing was changed")
    assert fleet.steps() == {"gpu-01": [], "gpu-02": []}


def test_a_hook_that_fails_after_changes_no_exit_code(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.write(GOOD + "hooks: {after_up: ['exit 3']}\n")
    outcome = clusterctl("up")
    assert (outcome.code, outcome.err) == (0, "error: hooks.after_up: `exit 3` exited 3\n")


@pytest.mark.parametrize("command", [("up",), ("down", "--yes"), ("restart", "--yes")])
def test_a_lock_that_another_holds(
    clusterctl: Clusterctl, fleet: FakeFleet, command: tuple[str, ...]
) -> None:
    clusterctl("up")
    fleet.steps()
    inventory = load(fleet.file)
    with (
        lines.connect(inventory) as open_lines,
        holding("drill", inventory, open_lines.connections, {}, majority=True),
    ):
        outcome = clusterctl(*command)
        assert clusterctl("up", "--dry-run").code == 0  # who only looks needs none
    assert outcome.code == 6, outcome
    assert "is at work on gpu-01, gpu-02 (2 of 2 nodes); nothing was changed" in outcome.err
    assert "drill" in outcome.err
    assert fleet.steps() == {"gpu-01": [], "gpu-02": []}
