"""The program that measures, with the real torch: two "nodes" on loopback."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import time
from pathlib import Path

import pytest
from proofs import said
from samples import fresh, plan

from cluster.proof import collectives
from tests.measuring import Node, free_port, states

TWO = plan({"runtime.device": "cpu", "nodes.0.gpus": 1, "nodes.1.gpus": 1})
FAMILIES = ("tcp", "tcp6")
NO_TORCH = "" if importlib.util.find_spec("torch") else "torch is not installed: pip install -e '.[local]'"
pytestmark = pytest.mark.skipif(bool(NO_TORCH), reason=NO_TORCH or "never")


@pytest.fixture
def port() -> int:
    return free_port()


def test_two_nodes_measure(tmp_path: Path, port: int) -> None:
    nodes = [Node(tmp_path, port, rank, "2,1") for rank in (0, 1)]
    head, worker = (node.end() for node in nodes)
    assert states(head, worker) == [(0, "done"), (1, "done"), (2, "done")]
    assert (head["error"], worker["error"]) == ("", "")
    assert [size["bytes"] for size in head["sweep"]][:2] == [8, 1 << 16]
    assert head["sweep"] == worker["sweep"]  # all ranks agree on the time
    assert head["sweep_end"] == worker["sweep_end"] != ""
    assert [(one["src"], one["dst"]) for one in head["stages"] + worker["stages"]] == [(0, 1), (1, 2)]
    assert [(one["src"], one["dst"]) for one in head["pairs"]] == [(0, 2)]
    assert worker["pairs"] == [head["pairs"][0] | {"src": 2, "dst": 0}]
    assert head["logs"] == []


def test_a_node_that_never_comes(tmp_path: Path, port: int) -> None:
    answer = Node(tmp_path, port, 0, "1,2", "--start-limit", "15").end()
    (rank,) = answer["ranks"]
    assert (rank["state"], rank["stage"], rank["missing"]) == ("failed", "joining the others", [1, 2])
    assert rank["error"] == "ranks 1, 2 did not come within 15 s"


def test_a_rank_that_stops_while_it_measures_is_named(tmp_path: Path, port: int) -> None:
    nodes = [Node(tmp_path, port, rank, "1,1", "--stage-limit", "4") for rank in (0, 1)]
    until_connected(port, 2)
    (rank,) = nodes[1].ranks()
    os.kill(rank, signal.SIGSTOP)
    head, worker = (node.end() for node in nodes)
    assert states(worker) == [(1, "hung")]
    assert worker["ranks"][0]["process"] == "T"
    judgement = collectives.judge(TWO, fresh(TWO), (), {"gpu-01": said(head), "gpu-02": said(worker)})
    assert [(problem.id, problem.node) for problem in judgement.verdict.errors] == [("verify-hang", "gpu-02")]


def until_connected(port: int, ranks: int, seconds: float = 60.0) -> None:
    """Until so many ranks hold a connection to the first one's store: from there on they measure."""
    deadline = time.monotonic() + seconds
    established = re.compile(rf"0100007F:{port:04X} 01 ")  # as remote address, in state ESTABLISHED
    while sum(len(established.findall(Path(f"/proc/net/{name}").read_text())) for name in FAMILIES) < ranks:
        assert time.monotonic() < deadline
