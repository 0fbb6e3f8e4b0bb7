"""What the collectives showed: lines and tables for people, content for programs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from cluster.errors import count
from cluster.on_node.collectives_sizes import LATENCY_BYTES
from cluster.on_node.collectives_sizes import in_words as size_in_words
from cluster.plan import Plan
from cluster.proof.answers import Heard
from cluster.proof.bandwidth import AllReduce, Link, Measured, PairRate, in_words
from cluster.steps import Row, Table

MOST_NODES = 10
WORST_PAIRS = 10
NOT_LARGER = {
    "memory": "larger messages were not measured: others hold the GPU memory, as a model that serves does",
    "time": "larger messages were not measured: they would have taken too long",
}


def lines(plan: Plan, measured: Measured, links: Mapping[str, Link]) -> Iterator[str]:
    """The bandwidth and what share it is, the pipeline stages, what was not measured."""
    best = measured.best
    if best is not None:
        yield (
            f"all-reduce over {best.ranks} ranks on {count(len(plan.members), 'node')}: bus bandwidth "
            f"{in_words(best.bus_bandwidth)} at {size_in_words(best.bytes)}{_latency(measured)}"
        )
    if measured.sweep_end in NOT_LARGER:
        yield NOT_LARGER[measured.sweep_end]
    if best is not None and links:
        yield _share(best, links)
    if measured.stages:
        slowest = min(measured.stages, key=lambda stage: stage.bandwidth)
        yield (
            f"pipeline stages: {in_words(slowest.bandwidth)} from rank {slowest.src} to rank {slowest.dst}, "
            f"the slowest of {len(measured.stages)}"
        )
    if best is not None and not plan.workers:
        yield "one node: nothing is required of a network"
    left_out = sum(pair.bandwidth is None for pair in measured.pairs)
    if left_out and left_out < len(measured.pairs):
        yield f"{left_out} of {len(measured.pairs)} pairs of nodes were not measured: the time was over"


def _latency(measured: Measured) -> str:
    return f", {_time(measured.latency)} at 8 B" if measured.latency is not None else ""


def _share(best: AllReduce, links: Mapping[str, Link]) -> str:
    link = min(links.values(), key=lambda one: one.bandwidth)
    share = best.bus_bandwidth / link.bandwidth
    return (
        f"that is {share:.1%} of the {in_words(link.bandwidth)} of {', '.join(link.through)} on {link.node}"
    )


def tables(measured: Measured) -> tuple[Table, ...]:
    """The sweep, and the pairs of nodes: all of them while there are few, else the slowest."""
    known = any(pair.bandwidth is not None for pair in measured.pairs)
    found = (_sweep(measured), _pairs(measured.pairs if known else ()))
    return tuple(table for table in found if table[1])


def _sweep(measured: Measured) -> Table:
    rows = tuple(_row(one) for one in measured.sweep)
    return ("all-reduce", "time", "algorithm bandwidth", "bus bandwidth"), rows


def _row(one: AllReduce) -> Row:
    """Of the smallest the time alone says something."""
    rates = () if one.bytes == LATENCY_BYTES else (one.algorithm_bandwidth, one.bus_bandwidth)
    return (size_in_words(one.bytes), _time(one.seconds), *(map(in_words, rates) if rates else ("", "")))


def _pairs(pairs: tuple[PairRate, ...]) -> Table:
    nodes = tuple(dict.fromkeys(name for pair in pairs for name in (pair.a, pair.b)))
    if len(nodes) <= MOST_NODES:
        cells = {key: _rate(pair) for pair in pairs for key in ((pair.a, pair.b), (pair.b, pair.a))}
        rows = ((a, *(cells.get((a, b), "") for b in nodes)) for a in nodes)
        return ("each way", *nodes), tuple(rows)
    known = sorted((p for p in pairs if p.bandwidth is not None), key=lambda pair: pair.bandwidth or 0.0)
    return ("node", "node", "each way"), tuple((p.a, p.b, _rate(p)) for p in known[:WORST_PAIRS])


def _rate(pair: PairRate) -> str:
    return "not measured" if pair.bandwidth is None else in_words(pair.bandwidth)


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def content(heard: Heard, measured: Measured, links: Mapping[str, Link]) -> dict[str, Any]:
    """For programs: bandwidths in GB/s, times in seconds, sizes in bytes."""
    return {
        "backend": next((answer.backend for answer in heard.answers.values()), None),
        "latency": measured.latency,
        "sweep": [
            {
                "bytes": one.bytes,
                "seconds": one.seconds,
                "algorithm_bandwidth": one.algorithm_bandwidth,
                "bus_bandwidth": one.bus_bandwidth,
            }
            for one in measured.sweep
        ],
        "sweep_end": measured.sweep_end or None,
        "stages": [asdict(stage) for stage in measured.stages],
        "pairs": [asdict(pair) for pair in measured.pairs],
        "links": [asdict(link) | {"through": list(link.through)} for link in links.values()],
        "ranks": [
            {"rank": rank.rank, "node": heard.node_of(rank.rank), "state": rank.state, "stage": rank.stage}
            for rank in heard.ranks
        ],
        "silent": dict(heard.unheard),
    }
