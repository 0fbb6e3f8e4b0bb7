"""The lock as operators meet it: another is at work, a lock that nobody gives back, and one that is lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from fakes import FakeFleet, FakeNode, Outcome
from samples import GOOD, inventory

from cluster import cli
from cluster.apply import apply
from cluster.errors import ConnectError, ConnectionLost, LockHeldError, LockLostError
from cluster.holder import is_gone, machine, this_holder
from cluster.holding import Held, holding
from cluster.inventory import Inventory
from cluster.lock.state import Holder
from cluster.steps import Argv, Phase, Put, Result, Run, Wait

Clusterctl = Callable[..., Outcome]
ANOTHER = Holder("ann@laptop", "her-boot pid:[1]", "4711", "99", "up", "2026-11-21T03:00:00Z")
THREE = f"{GOOD}  - {{name: gpu-03, address: 10.0.0.13, gpus: 2}}\nlock: {{expires_after: 0.4}}\n"


def take(node: FakeNode, holder: Holder = ANOTHER, epoch: int = 5, seconds: float = 12.0) -> None:
    expires = node.lock.clock() + int(100 * seconds)
    done = node.lock.acquire(epoch, "hers", expires, node.lock.boot, "30", "", holder.about)
    assert done.exit_code == 0


@pytest.fixture
def lock(fleet: FakeFleet, capsys: pytest.CaptureFixture[str]) -> Clusterctl:
    """`lock("status", "--json")`."""

    def call(command: str, *options: str) -> Outcome:
        code = cli.main(["lock", command, str(fleet.file), *options])
        return Outcome(code, *capsys.readouterr())

    return call


def test_another_is_at_work(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.nodes["gpu-02"].lock.clock = lambda: 5000
    take(fleet.nodes["gpu-02"])
    outcome = clusterctl("up")
    assert outcome.code == 6
    assert outcome.err.splitlines() == [
        "error: ann@laptop is at work on gpu-02 (1 of 2 nodes); nothing was changed",
        "  command     up (process 4711)",
        "  since       2026-11-21T03:00:00Z",
        "  epoch       5",
        "  last heard  18 s ago",
        "  expires     in 12 s, if it is not heard again",
        "  Wait for it to end. If it never will: `clusterctl lock release` (what it started stays as it is).",
    ]
    assert fleet.steps() == {"gpu-01": [], "gpu-02": []}
    assert clusterctl("down", "--yes").code == 6


def test_what_looks_needs_no_lock(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    take(fleet.nodes["gpu-01"])
    before = fleet.nodes["gpu-01"].lock.text
    assert clusterctl("up", "--dry-run").code == 0
    assert clusterctl("status").code == 1
    assert fleet.nodes["gpu-01"].lock.text == before


def test_the_lock_is_given_back_and_the_epoch_stays(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    assert clusterctl("up").code == 0
    for node in fleet.nodes.values():
        assert (node.lock.state.epoch, node.lock.state.released, node.lock.state.settled) == (1, True, True)
    assert clusterctl("down", "--yes").code == 0
    assert {node.lock.state.epoch for node in fleet.nodes.values()} == {2}


def test_a_holder_of_this_machine_that_is_gone(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    gone = replace(this_holder("up"), started="1")
    assert is_gone(gone) and not is_gone(this_holder("up"))
    take(fleet.nodes["gpu-01"], gone)
    assert clusterctl("up").code == 0
    assert fleet.nodes["gpu-01"].lock.state.epoch == 6


@pytest.mark.parametrize(
    "holder",
    [
        replace(this_holder("up"), machine=f"another {machine().partition(' ')[2]}", started="1"),
        replace(this_holder("up"), machine="", started="1"),
        replace(this_holder("up"), pid="", started="1"),
    ],
    ids=["another machine", "no machine", "no process"],
)
def test_of_which_holders_nobody_knows_that_they_are_gone(holder: Holder) -> None:
    assert not is_gone(holder)


def test_status(lock: Clusterctl, fleet: FakeFleet) -> None:
    fleet.nodes["gpu-01"].lock.clock = lambda: 5000
    take(fleet.nodes["gpu-01"])
    lines = lock("status").lines
    assert lines[0].split() == [
        "node",
        "lock",
        "epoch",
        "holder",
        "command",
        "since",
        "last",
        "heard",
        "expires",
    ]
    assert lines[1].split()[:4] == ["gpu-01", "held", "5", "ann@laptop"]
    assert lines[2].split() == ["gpu-02", "free", "0"]
    events = lock("status", "--json").events
    assert [(event["node"], event["lock"]) for event in events] == [("gpu-01", "held"), ("gpu-02", "free")]
    assert events[0]["holder"] == "ann@laptop" and events[0]["seconds_left"] == 12
    fleet.nodes["gpu-01"].lock.reboot("boot-2")
    fleet.nodes["gpu-02"].unreachable = "no route"
    assert [line.split()[:2] for line in lock("status").lines[1:]] == [
        ["gpu-01", "rebooted"],
        ["gpu-02", "no"],
    ]
    assert lock("status", "--json").events[1] == {
        "event": "lock",
        "node": "gpu-02",
        "lock": "unknown",
        "why": "no route",
    }
    fleet.nodes["gpu-01"].unreachable = "no route"
    assert lock("status").code == 4


def test_release(lock: Clusterctl, clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    take(fleet.nodes["gpu-01"])
    assert lock("release") == Outcome(
        2, "", "error: release takes the lock from its holder: add --yes where nobody can be asked\n"
    )
    said = "released on gpu-01: what its holder still does there is refused from now on\n"
    assert lock("release", "--yes") == Outcome(0, said, "")
    assert lock("release", "--yes") == Outcome(0, "nothing to do: nobody holds the lock\n", "")
    assert json.loads(lock("release", "--yes", "--json").out) == {"event": "nothing_to_do", "nodes": []}
    assert clusterctl("up").code == 0


@pytest.mark.parametrize(("answer", "code", "live"), [(True, 0, False), (False, 1, True)])
def test_release_at_a_terminal(
    lock: Clusterctl,
    fleet: FakeFleet,
    monkeypatch: pytest.MonkeyPatch,
    answer: bool,
    code: int,
    live: bool,
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("cluster.console.confirm", lambda _: answer)
    take(fleet.nodes["gpu-01"])
    assert lock("release").code == code
    assert fleet.nodes["gpu-01"].lock.state.released is not live


def test_where_a_node_is_silent_release_says_so(lock: Clusterctl, fleet: FakeFleet) -> None:
    take(fleet.nodes["gpu-01"])
    fleet.nodes["gpu-02"].unreachable = "no route"
    outcome = lock("release", "--yes")
    assert outcome.code == 7 and "gpu-02  no route" in outcome.err


# --- holding --------------------------------------------------------------------------------------


class Line:
    """A node's line that can be cut."""

    def __init__(self, node: FakeNode) -> None:
        self.node, self.cut = node, False

    def run(self, argv: Argv, *more: Any) -> Result:
        if self.cut:
            raise ConnectionLost("cut")
        return self.node.run(argv, *more)

    def put(self, *_: Any) -> None:
        raise AssertionError("not through the guard")

    def close(self) -> None: ...


@pytest.fixture
def three(fleet: FakeFleet) -> tuple[Inventory, dict[str, Line]]:
    """Three nodes, and a lock that expires after 0.4 s."""
    fleet.nodes["gpu-03"] = FakeNode("gpu-03", "10.0.0.13", 2, fleet)
    return inventory(base=THREE), {name: Line(node) for name, node in sorted(fleet.nodes.items())}


@pytest.fixture
def held(three: tuple[Inventory, dict[str, Line]]) -> Iterator[Held]:
    with holding("up", three[0], three[1], {}, True) as found:
        yield found


def state(line: Line) -> Any:
    return line.node.lock.state


def test_it_is_renewed_until_it_is_given_back(three: tuple[Inventory, dict[str, Line]], held: Held) -> None:
    at_first = {name: state(line).expires for name, line in three[1].items()}
    pause = threading.Event()
    while any(state(line).expires <= at_first[name] for name, line in three[1].items()):
        assert not held.lost.wait(0.01)
        pause.wait(0.01)


def test_too_few_nodes_hear_it(three: tuple[Inventory, dict[str, Line]], held: Held) -> None:
    for name in ("gpu-01", "gpu-02"):
        three[1][name].cut = True
    assert held.lost.wait(20)
    assert held.why == "for 0.4 s too few nodes could be reached"
    with pytest.raises(LockLostError, match="up: the lock is lost: for 0"):
        held.connections["gpu-03"].run(("true",))


def test_one_silent_node_of_three_is_no_loss(three: tuple[Inventory, dict[str, Line]], held: Held) -> None:
    """And its own lease ends."""
    three[1]["gpu-02"].cut = True
    lock, pause = three[1]["gpu-02"].node.lock, threading.Event()
    while lock.clock() < lock.state.expires:
        pause.wait(0.01)
    assert held.connections["gpu-01"].run(("docker", "ps")).exit_code == 0
    three[1]["gpu-02"].cut = False
    with pytest.raises(LockLostError, match="gpu-02: the node heard nothing from here for too long"):
        held.connections["gpu-02"].run(("true",))


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("release", "gpu-02: the lock was released by another"),
        ("reboot", "gpu-02: the node was started anew in the meantime"),
        ("take", "gpu-02: another took the lock"),
    ],
)
def test_a_node_refuses(three: tuple[Inventory, dict[str, Line]], held: Held, what: str, why: str) -> None:
    lock = three[1]["gpu-02"].node.lock
    if what == "reboot":
        lock.reboot("boot-2")
    else:
        lock.release(lock.state.epoch, lock.state.token, False)
    if what == "take":
        take(three[1]["gpu-02"].node)
    with pytest.raises(LockLostError, match=why):
        held.connections["gpu-02"].put("file", "text", 0o644)
    assert held.lost.is_set()
    assert "file" not in three[1]["gpu-02"].node.files


def test_a_lost_lock_ends_waits_and_no_step_begins(
    three: tuple[Inventory, dict[str, Line]], held: Held
) -> None:
    waiting = Wait("gpu-01", ("docker", "ps"), lambda _: held.lost.because("a test") or "still", 600.0)
    todo = Phase("Wait", (waiting, Run("gpu-01", ("docker", "rm", "x")), Put("gpu-01", "f", "t")))
    with pytest.raises(LockLostError, match="a test"):
        apply((todo,), held.connections, 3, lambda _: None, "", held.lost)
    assert not [step for step in three[1]["gpu-01"].node.steps if "rm" in step or "write" in step]


def test_more_than_half_of_the_nodes(three: tuple[Inventory, dict[str, Line]]) -> None:
    for name in ("gpu-01", "gpu-02"):
        three[1][name].cut = True
    only = {"gpu-03": three[1]["gpu-03"]}
    away = {"gpu-01": "no route", "gpu-02": "no route"}
    with pytest.raises(ConnectError, match="gpu-01  no route"), holding("up", three[0], only, away, True):
        pass
    with holding("down", three[0], only, away, False) as found:
        assert set(found.connections) == {"gpu-03"}
        assert found.missing == away


def test_what_was_taken_is_given_back_where_a_node_refuses(three: tuple[Inventory, dict[str, Line]]) -> None:
    """It took the lock between the look and the leap."""
    third = three[1]["gpu-03"].node
    run = third.run

    def late(argv: Argv, *more: Any) -> Result:
        if "acquire" in argv:
            take(third, epoch=9)
        return run(argv, *more)

    third.run = late  # type: ignore[method-assign]
    with pytest.raises(LockHeldError, match="ann@laptop"), holding("up", three[0], three[1], {}, True):
        pass
    assert state(three[1]["gpu-01"]).released and not state(three[1]["gpu-01"]).settled
    assert (state(three[1]["gpu-03"]).epoch, state(three[1]["gpu-03"]).released) == (9, False)


def test_a_missing_node_is_waited_out(three: tuple[Inventory, dict[str, Line]]) -> None:
    """Whoever had the others a moment ago may have it still."""
    lines = {name: three[1][name] for name in ("gpu-01", "gpu-02")}
    for line in lines.values():
        take(line.node, seconds=0.2)
        line.node.lock.text = line.node.lock.text.replace("ttl=30", "ttl=0.4")
    former, clock = state(lines["gpu-01"]).expires, lines["gpu-01"].node.lock.clock
    pause = threading.Event()
    while clock() < max(state(line).expires for line in lines.values()):
        pause.wait(0.01)
    with holding("up", three[0], lines, ["gpu-03"], True) as found:
        assert clock() >= former + 40
        assert found.missing == {"gpu-03": "it could not be reached"}


def test_what_a_node_says_that_cannot_hold_a_lock(three: tuple[Inventory, dict[str, Line]]) -> None:
    def full(*_: Any) -> Result:
        return Result(1, "", "sh: 1: cannot create lock.part: No space left on device\n")

    for line in three[1].values():
        line.node.lock.hear = full  # type: ignore[method-assign,assignment]
    with pytest.raises(ConnectError, match=r"gpu-02  it cannot hold a lock: .*No space left"):  # noqa: SIM117
        with holding("up", three[0], three[1], {}, True):
            pass
