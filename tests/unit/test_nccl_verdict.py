"""The precedence of verdicts, and what satisfies `--require`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster.nccl import REQUIRE, Report, Unfinished, holds, read
from cluster.nccl.verdict import Evidence, decide

NOTHING = Evidence(
    failure=None,
    unfinished=(),
    folded=False,
    qualities=frozenset(),
    doubts=(),
    nodes=("a", "b"),
    spans=True,
    begun=True,
    spoke=True,
    link_layer=None,
    network=None,
)
STARTED = (Unfinished("0xee", 1, "b", 7, True),)
SILENT = (Unfinished("0xee", 1, "", None, False),)
CUT = ("3 lines of channels are cut",)


def qualities(*names: Any) -> frozenset[Any]:
    return frozenset(names)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"qualities": qualities("gdrdma")}, "gdrdma"),
        ({"qualities": qualities("gdrdma"), "doubts": CUT}, "unknown"),
        ({"qualities": qualities("gdrdma"), "unfinished": STARTED}, "incomplete"),
        ({"qualities": qualities("gdrdma"), "unfinished": SILENT}, "incomplete"),
        ({"qualities": qualities("gdrdma"), "unfinished": SILENT, "folded": True, "doubts": CUT}, "unknown"),
        ({"qualities": qualities("gdrdma"), "failure": "x"}, "failed"),
        ({"qualities": qualities("gdrdma", "nvlink")}, "gdrdma"),
        ({"qualities": qualities("gdrdma", "rdma"), "doubts": CUT}, "mixed"),
        ({"qualities": qualities("gdrdma", "socket"), "unfinished": SILENT}, "mixed"),
        ({"qualities": qualities("gdrdma", "socket"), "unfinished": STARTED}, "incomplete"),
        ({"qualities": qualities("rdma")}, "unknown"),
        ({"qualities": qualities("rdma"), "link_layer": "InfiniBand"}, "ib"),
        ({"qualities": qualities("rdma"), "doubts": CUT}, "unknown"),
        ({"qualities": qualities("rdma"), "link_layer": "RoCE"}, "roce"),
        ({"qualities": qualities("plugin"), "doubts": CUT}, "plugin"),
        ({"qualities": qualities("socket"), "doubts": CUT}, "socket"),
        ({"qualities": qualities("socket"), "unfinished": SILENT}, "socket"),
        ({"qualities": qualities("socket"), "unfinished": STARTED}, "incomplete"),
        ({"qualities": qualities("socket"), "failure": "x"}, "failed"),
        ({"qualities": qualities("nvlink")}, "intra-node"),
        ({"spans": False, "nodes": ("a",)}, "intra-node"),
        ({"spans": False, "nodes": ("a",), "folded": True, "doubts": CUT}, "unknown"),
        ({"spans": False, "nodes": ("a", "b")}, "unknown"),
        ({"spans": True}, "unknown"),
        ({"begun": False, "spans": False, "nodes": ()}, "unknown"),
        ({"begun": False, "spans": False, "nodes": (), "spoke": False}, "unknown"),
    ],
)
def test_precedence(changes: dict[str, Any], verdict: str) -> None:
    found, reason = decide(replace(NOTHING, **changes))
    assert found == verdict and reason


def test_the_reason_names_all_that_carries_data() -> None:
    both = replace(NOTHING, qualities=qualities("gdrdma", "nvlink"), link_layer="InfiniBand")
    verdict, reason = decide(both)
    assert (verdict, "NVLink (P2P/MNNVL)" in reason, "InfiniBand" in reason) == ("gdrdma", True, True)
    assert "NVLink" not in decide(replace(both, qualities=qualities("gdrdma")))[1]


def report(verdict: Any, link_layer: Any = None) -> Report:
    return replace(read([]), verdict=verdict, link_layer=link_layer)


@pytest.mark.parametrize(
    ("verdict", "link_layer", "satisfied"),
    [
        ("gdrdma", "InfiniBand", {"any", "socket", "ib", "gdrdma"}),
        ("gdrdma", "RoCE", {"any", "socket", "roce", "gdrdma"}),
        ("gdrdma", None, {"any", "socket", "gdrdma"}),
        ("ib", "InfiniBand", {"any", "socket", "ib"}),
        ("roce", "RoCE", {"any", "socket", "roce"}),
        ("plugin", None, {"any", "socket"}),
        ("socket", None, {"any", "socket"}),
        ("mixed", "InfiniBand", {"any", "socket"}),
        ("intra-node", None, {"any"}),
        ("incomplete", None, set()),
        ("failed", None, set()),
        ("unknown", None, set()),
    ],
)
def test_requirements(verdict: str, link_layer: str | None, satisfied: set[str]) -> None:
    assert {need for need in REQUIRE if holds(report(verdict, link_layer), need)} == satisfied


def test_an_empty_log_says_what_to_do() -> None:
    empty = read([("x", [b"nothing of interest\n"])])
    assert (empty.verdict, empty.problems[0].id) == ("unknown", "nccl-log-missing")
    assert "NCCL_DEBUG=INFO" in empty.reason and "NCCL_DEBUG_SUBSYS" in empty.problems[0].remedy
