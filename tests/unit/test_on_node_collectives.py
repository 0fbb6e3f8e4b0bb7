"""The program that measures, with ranks that do not obey; for real it is in tests/lab/test_collectives.py."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.on_node.collectives_rank import in_words, rounds, within
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
