"""What the probes said, as a matrix. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.facts.text import json_objects, mapping, number, text_or_none, whole

# All transfers of a node together, as long as one of them stays between its shortest and its longest.
SECONDS_OF_TRANSFERS, SHORTEST_TRANSFER, LONGEST_TRANSFER = 0.6, 0.02, 0.2
BYTES_OF_TRANSFERS, SMALLEST_TRANSFER = 128 << 20, 1 << 20  # of all nodes together, and of one


@dataclass(frozen=True)
class Link:
    """What was measured from one node to another; None: not known, and `why` says why.

    `mtu`: bytes of the IP packet that was tried, which is the MTU of src's interface.
    """

    src: str
    dst: str
    connected: bool | None = None
    why: str = ""
    mtu: int | None = None
    mtu_passes: bool | None = None
    rtt_seconds: float | None = None
    bits_per_second: float | None = None


@dataclass(frozen=True)
class Matrix:
    """Every ordered pair of nodes, in order of node rank."""

    nodes: tuple[str, ...]
    links: tuple[Link, ...]

    def between(self, names: Collection[str]) -> Matrix:
        """What was measured between these nodes."""
        nodes = tuple(node for node in self.nodes if node in names)
        return Matrix(nodes, tuple(k for k in self.links if k.src in names and k.dst in names))


def opponents(nodes: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """{node: the others, in the order of a round-robin tournament}: the n-th pairs of all are disjoint.

    The circle method: the first stays, the others move on by one seat a round.
    """
    seats = [*nodes] if len(nodes) % 2 == 0 else [*nodes, ""]
    order: dict[str, list[str]] = {node: [] for node in seats}
    for _ in range(len(seats) - 1):
        for one, other in zip(seats, reversed(seats), strict=True):
            order[one].append(other)
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return {node: tuple(filter(None, order[node])) for node in nodes}


def seconds_per_transfer(nodes: int) -> float:
    """How long one transfer takes, so that all together take a few: each node has part in 2 (n - 1)."""
    transfers = 2 * (nodes - 1)
    return min(LONGEST_TRANSFER, max(SHORTEST_TRANSFER, SECONDS_OF_TRANSFERS / transfers))


def bytes_per_transfer(nodes: int) -> int:
    """The other limit of a transfer: a quick network needs less time, and gets less traffic."""
    return max(SMALLEST_TRANSFER, BYTES_OF_TRANSFERS // (nodes * (nodes - 1)))


def parse_said(output: str) -> Mapping[str, Any]:
    """The one JSON object that a probe prints between empty lines; empty where there is none."""
    return next(json_objects(output), {})


def make_matrix(
    nodes: tuple[str, ...], reports: Mapping[str, Mapping[str, Any]], unknown: Mapping[str, str]
) -> Matrix:
    """From {node: the `links` that its probe printed}, and {node: why it does not count}.

    Nothing listens on an unknown node, or it is gone: that it is not reached says nothing about firewalls.
    """
    return Matrix(
        nodes,
        tuple(_link(src, dst, reports, unknown) for src in nodes for dst in nodes if src != dst),
    )


def _link(src: str, dst: str, reports: Mapping[str, Mapping[str, Any]], unknown: Mapping[str, str]) -> Link:
    found = mapping(reports.get(src, {}).get(dst))
    for node in (src, dst):
        if node in unknown and not (node == dst and found.get("connected") is True):
            return Link(src, dst, why=f"not measured: {node}: {unknown[node]}")
    return Link(
        src=src,
        dst=dst,
        connected=_true_or_false(found.get("connected")),
        why=text_or_none(found.get("why")) or "",
        mtu=whole(found.get("mtu")) or None,
        mtu_passes=_true_or_false(found.get("mtu_passes")),
        rtt_seconds=number(found.get("rtt_seconds")) or None,
        bits_per_second=number(found.get("bits_per_second")) or None,
    )


def _true_or_false(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None
