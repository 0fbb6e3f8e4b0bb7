"""The program that measures, with ranks that do not obey; for real it is in tests/lab/test_collectives.py."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.on_node import PROOF, collectives_alone, collectives_process, program
from cluster.on_node.collectives import Watch
from cluster.on_node.collectives_alone import is_obeyed, take_over
from cluster.on_node.collectives_process import Rank, end
from cluster.on_node.collectives_rank import Ranks
from cluster.on_node.collectives_sizes import (
    MEBIBYTE,
    SWEEP,
    in_words,
    iterations_for,
    largest_message,
    needed,
    rounds,
    within,
)
from tests.measuring import Node, free_port, states

FAKE_TORCH = """\
import os, signal, sys, time
{what}
"""


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def fake_torch(tmp_path: Path) -> Any:
    """A torch that does `what` when it is imported; PYTHONPATH leads to it."""
    folder = tmp_path / "site"
    folder.mkdir()

    def write(what: str) -> dict[str, str]:
        (folder / "torch.py").write_text(FAKE_TORCH.format(what=what))
        return {"PYTHONPATH": str(folder)}

    return write


def test_rounds_are_a_tournament() -> None:
    for nodes in range(1, 9):
        seen = [list(rounds(nodes, node)) for node in range(nodes)]
        for number in range(len(seen[0])):
            peers = [one[number] for one in seen]
            assert all(peer is None or peers[peer] == node for node, peer in enumerate(peers))
        met = [sorted(peer for peer in one if peer is not None) for one in seen]
        assert met == [[peer for peer in range(nodes) if peer != node] for node in range(nodes)]


def test_sizes() -> None:
    assert [within(64, 1024, size) for size in (0.1, 64.0, 100.0, 129.0, 1e9)] == [64, 64, 64, 128, 1024]
    assert within(8, 8, 1e9) == 8
    assert [in_words(size) for size in (8, 65536, 8 << 20)] == ["8 B", "64 KiB", "8 MiB"]


def test_what_a_size_needs() -> None:
    """Two, of which the first makes the connections, and then others for half a second."""
    assert needed(16 * MEBIBYTE, MEBIBYTE, 0.1) == pytest.approx(2 * 1.6 + 0.5)
    assert needed(MEBIBYTE, 8, 1e-4) == pytest.approx(2e-4 + 0.5)  # 8 bytes are all latency
    assert [iterations_for(seconds) for seconds in (1e-9, 0.01, 0.2, 0.25, 4.0)] == [1000, 25, 2, 0, 0]


@pytest.mark.parametrize("stage_limit", [5.0, 20.0])
@pytest.mark.parametrize("rate", [1e4, 1e6, 1e8, 1e10])
def test_no_size_of_the_sweep_needs_more_than_half_of_what_a_stage_has(
    stage_limit: float, rate: float
) -> None:
    """On any network whose times grow as the bytes do, but for the first size after the latency."""
    for sizes in SWEEP.values():
        for smaller, size in pairwise(sizes[1:]):
            seconds = smaller / rate
            if needed(size, smaller, seconds) <= stage_limit / 2:
                once = size / rate
                assert 2 * once + iterations_for(once) * once <= stage_limit / 2


@pytest.mark.parametrize(
    ("free", "size"),
    [(float("inf"), 64 * MEBIBYTE), (100 * MEBIBYTE, 8 * MEBIBYTE), (0.0, 64 << 10)],
)
def test_messages_fit_into_the_free_memory(free: float, size: int) -> None:
    """As what is sent and what is received, in a quarter of it."""
    assert largest_message("nccl", free) == size


# --- why a sweep ends -------------------------------------------------------------------------------


def sweep(
    rate: float, free: float = float("inf"), total_limit: float = 120.0, spent: float = 20.0
) -> tuple[str, list[int]]:
    """(why it ended, the sizes) of GPUs that carry `rate` bytes a second, some seconds after they started."""
    measured: list[int] = []

    class Alone(Ranks):
        def agreed(self, value: float) -> float:
            return value

        def free_memory(self) -> float:
            return free

        def all_reduce(self, size: int) -> float:
            measured.append(size)
            return 1e-5 + size / rate

    task = SimpleNamespace(
        gpus=[2], rank=0, backend="nccl", start_limit=60.0, stage_limit=20.0, total_limit=total_limit
    )
    ranks = Alone(task, lambda **_: None)
    ranks.started -= spent
    return ranks.sweep(), measured


@pytest.mark.parametrize(
    ("end", "sizes", "conditions"),
    [
        ("largest", 5, {}),
        ("memory", 4, {"free": 1024 * MEBIBYTE}),
        ("memory", 0, {"free": 16.0}),
        ("time", 4, {"rate": 1e8}),
        ("time", 2, {"rate": 1e6}),
        ("time", 0, {"spent": 115.0}),
        ("largest", 5, {"spent": 115.0, "total_limit": 240.0}),
    ],
)
def test_why_a_sweep_ends(end: str, sizes: int, conditions: dict[str, float]) -> None:
    assert sweep(**{"rate": 1e11, **conditions}) == (end, list(SWEEP["nccl"][:sizes]))


# --- how long they have -----------------------------------------------------------------------------


def test_the_communicator_has_as_long_as_a_start(tmp_path: Path) -> None:
    watch = Watch(Namespace(start_limit=60.0, stage_limit=20.0), tmp_path)
    rank = Rank(0, of(Immortal()), tmp_path / "errors")
    limits = {}
    for stage in ("starting", "joining the others", "making the communicator", "all-reduce of 1 MiB"):
        rank.stage = stage
        limits[stage] = watch.limit(rank)
    assert list(limits.values()) == [60.0, 63.0, 60.0, 20.0]


# --- ranks that cannot be killed --------------------------------------------------------------------


class Immortal:
    """A process in state D, which SIGKILL does not end; its group has no living member to be hit."""

    pid = 2**22 + 1  # above the largest that Linux gives (PID_MAX_LIMIT)
    returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        assert timeout is not None, "it would be waited for without a limit"
        raise subprocess.TimeoutExpired("a rank", timeout)


def of(process: Immortal) -> Any:
    return process


def test_a_rank_that_cannot_be_killed_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collectives_process, "GRACE_S", 0.01)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    ranks = [Rank(0, of(Immortal()), tmp_path / "0"), Rank(1, other, tmp_path / "1")]
    ranks[0].hung()
    end(ranks)
    other.communicate()
    assert other.returncode == -signal.SIGKILL
    assert ranks[0].report["state"] == "hung"


def test_all_are_killed_before_one_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(Rank, "kill", lambda rank: done.append(f"kill {rank.number}"))
    monkeypatch.setattr(Rank, "bury", lambda rank, _: done.append(f"bury {rank.number}"))
    end([Rank(number, of(Immortal()), tmp_path) for number in (0, 1)])
    assert done == ["kill 0", "kill 1", "bury 0", "bury 1"]


def test_a_rank_that_was_waited_for_is_not_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be another's."""
    process = Immortal()
    process.returncode = 0
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda pid, _: killed.append(pid))
    Rank(0, of(process), tmp_path).kill()
    assert killed == []


def test_a_rank_that_closed_its_pipe_and_does_not_end(tmp_path: Path) -> None:
    (tmp_path / "errors").write_text("last words\n")
    rank = Rank(0, of(Immortal()), tmp_path / "errors")
    rank.ended()
    assert rank.report["error"] == "it says nothing any more, and has not ended within 3 s\nlast words"


# --- one at a time ----------------------------------------------------------------------------------


@pytest.fixture
def name(tmp_path: Path) -> str:
    return f"\0clusterctl-test-{tmp_path}"


@pytest.fixture
def thread() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Runs something meanwhile, and waits for its end."""
    threads: list[threading.Thread] = []

    def start(target: Callable[[], object]) -> None:
        threads.append(threading.Thread(target=target))
        threads[-1].start()

    yield start
    for one in threads:
        one.join(20)


def is_asked(alone: socket.socket) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(alone, selectors.EVENT_READ)
        return bool(selector.select(20))


def test_the_one_before_ends_without_having_listened(name: str, thread: Any) -> None:
    """It is past the point where it asks who calls: whoever has called is cut off when it ends."""
    before = take_over(name)
    thread(lambda: (is_asked(before), before.close()))
    after = take_over(name)
    assert after.getsockname() == name.encode()
    after.close()


def test_the_one_before_does_not_end(name: str) -> None:
    with take_over(name), pytest.raises(TimeoutError, match=r"has not ended within 0\.05 s"):
        take_over(name, 0.05)


def test_a_name_that_is_bound_and_has_no_listener_yet(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as before:
        before.bind(name)
        with pytest.raises(TimeoutError):
            take_over(name, 0.05)


def test_another_user_has_the_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with take_over(name):
        monkeypatch.setattr(collectives_alone, "peer", lambda _: (77, os.geteuid() + 1))
        with pytest.raises(PermissionError, match=rf"the user with the id {os.geteuid() + 1} .*\(pid 77\)"):
            take_over(name, 5)


@pytest.mark.parametrize(("uid", "obeyed"), [(os.geteuid(), True), (os.geteuid() + 1, False)])
def test_only_the_same_user_is_obeyed(
    uid: int, obeyed: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collectives_alone, "peer", lambda _: (77, uid))
    with take_over(name) as alone, socket.socket(socket.AF_UNIX) as other:
        other.connect(name)
        asking = is_obeyed(alone)
        assert (asking is not None) is obeyed
        if asking is not None:
            asking.close()


def test_the_kernel_says_who_the_other_is(name: str) -> None:
    with take_over(name) as alone, socket.socket(socket.AF_UNIX) as other:
        other.connect(name)
        accepted, _ = alone.accept()
        with accepted:
            mine = (os.getpid(), os.geteuid())
            assert collectives_alone.peer(other) == collectives_alone.peer(accepted) == mine


# --- as they lie on a node --------------------------------------------------------------------------


@pytest.fixture
def on_a_node(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs one of the programs in a folder that has what is rendered, and nothing of this package."""
    folder = tmp_path / "on_node"
    folder.mkdir()
    for one in PROOF:
        (folder / one).write_text(program(one))

    def run(one: str, word: str, *flags: str) -> subprocess.CompletedProcess[str]:
        line = (sys.executable, "-S", *flags, str(folder / one), word)
        done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
        assert {file.name for file in folder.iterdir()} == set(PROOF)  # and no __pycache__
        return done

    return run


def test_what_is_rendered_is_all_that_they_import(on_a_node: Any) -> None:
    for one in ("collectives.py", "environments.py"):
        told = on_a_node(one, "--help")
        assert (told.returncode, told.stderr) == (0, "")
    said = on_a_node("collectives_rank.py", "{}", "-B")  # as collectives.py starts it
    assert json.loads(said.stdout)["error"].startswith("AttributeError: "), said.stderr


# --- ranks that do not obey -------------------------------------------------------------------------


def test_the_port_is_taken(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        answer = Node(tmp_path, other.getsockname()[1], 0, "1,1").end()
    assert (answer["error"], answer["ranks"]) == ("port taken", [])


def test_torch_is_missing(tmp_path: Path, port: int, fake_torch: Any) -> None:
    environment = fake_torch("raise ModuleNotFoundError(\"No module named 'torch'\")")
    answer = Node(tmp_path, port, 0, "2,1", **environment).end()
    assert states(answer) == [(0, "failed"), (1, "failed")]
    assert answer["ranks"][0]["error"] == "ModuleNotFoundError: No module named 'torch'"


def test_a_rank_that_is_killed(tmp_path: Path, port: int, fake_torch: Any) -> None:
    what = "print('last words', file=sys.stderr, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    answer = Node(tmp_path, port, 0, "1,1", **fake_torch(what)).end()
    (rank,) = answer["ranks"]
    assert (rank["state"], rank["stage"]) == ("died", "starting")
    assert rank["error"] == "killed by SIGKILL\nlast words"


def test_a_rank_that_stands_still(tmp_path: Path, port: int, fake_torch: Any) -> None:
    environment = fake_torch("os.kill(os.getpid(), signal.SIGSTOP)")
    answer = Node(tmp_path, port, 0, "2,1", "--start-limit", "1.5", **environment).end()
    assert [(r["state"], r["stage"], r["process"]) for r in answer["ranks"]] == [
        ("hung", "starting", "T")
    ] * 2
    assert answer["error"] == "out of time"


def test_all_of_it_takes_no_longer_than_its_limit(tmp_path: Path, port: int, fake_torch: Any) -> None:
    answer = Node(tmp_path, port, 0, "1,1", "--total-limit", "1", **fake_torch("time.sleep(60)")).end()
    assert (answer["error"], states(answer)) == ("out of time", [(0, "hung")])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_it_can_be_told_to_end(tmp_path: Path, port: int, fake_torch: Any, number: signal.Signals) -> None:
    node = Node(tmp_path, port, 0, "2,1", **fake_torch("time.sleep(60)"))
    deadline = time.monotonic() + 20
    while len(node.ranks()) < 2:
        assert time.monotonic() < deadline
    node.process.send_signal(number)
    answer = node.end()
    assert (answer["error"], [rank["state"] for rank in answer["ranks"]]) == ("terminated", ["", ""])


def test_a_second_one_ends_the_first(tmp_path: Path, port: int, fake_torch: Any) -> None:
    """An operator who pressed Ctrl-C has left one behind, and asks again."""
    mark = tmp_path / "imported"
    first = Node(tmp_path, port, 0, "1,1", **fake_torch(f"open({str(mark)!r}, 'w').close(); time.sleep(60)"))
    deadline = time.monotonic() + 20
    while not mark.exists():
        assert time.monotonic() < deadline
    (tmp_path / "second").mkdir()
    second = Node(tmp_path / "second", port, 0, "1,1", **fake_torch("raise ModuleNotFoundError('torch')"))
    assert states(second.end()) == [(0, "failed")]
    assert first.end(timeout=1)["error"] == "terminated"


def test_ranks_die_with_the_program(tmp_path: Path, port: int, fake_torch: Any) -> None:
    """SIGKILL leaves it no time to end them; the kernel does."""
    marks = tmp_path / "imported"
    node = Node(tmp_path, port, 0, "1,1", **fake_torch(f"open({str(marks)!r}, 'w').close(); time.sleep(60)"))
    deadline = time.monotonic() + 20
    while not marks.exists():
        assert time.monotonic() < deadline
    (rank,) = node.ranks()
    node.process.kill()
    node.process.communicate()
    while Path(f"/proc/{rank}").exists() and Path(f"/proc/{rank}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
