"""What was measured and is less than it should be. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median

from cluster.errors import Problem
from cluster.nccl import Report
from cluster.network.matrix import Link as Direction
from cluster.network.problems import Blame, blame
from cluster.on_node.collectives_sizes import in_words as size_in_words
from cluster.plan import Plan
from cluster.proof.bandwidth import Link, Measured, PairRate, in_words

SLOW_SHARE = 1 / 4  # of the median of the other pairs
SLOW_SHARE_OF_LINK = 1 / 10  # where there is but one pair
REMEDIES = {
    "memory": "Run `clusterctl verify` while no model is loaded, as `up` does before it starts the server; "
    "`nvidia-smi` on the nodes shows which processes hold memory",
    "time": "Run it again with a larger network.verify_timeout",
}


def slowness(
    plan: Plan, measured: Measured, links: Mapping[str, Link], report: Report | None
) -> tuple[Problem, ...]:
    """Less than the inventory requires (an error), then nodes and pairs that are slower than the others."""
    return (
        *_unknown(plan, measured),
        *_too_little(plan, measured, links, report),
        *_slow_pairs(measured, links),
    )


def _unknown(plan: Plan, measured: Measured) -> Iterator[Problem]:
    """A requirement that was not reached by a sweep without its large sizes is neither met nor unmet."""
    if plan.min_bus_bandwidth is None or _is_reached(plan, measured) or _is_judged(measured):
        return
    best = measured.best
    reached = (
        f"{in_words(best.bus_bandwidth)} with {size_in_words(best.bytes)}" if best else "nothing measured"
    )
    without = "memory" if measured.sweep_end == "memory" else "time"
    yield Problem(
        "bandwidth-unknown",
        plan.head.name,
        f"there was not the {without} to all-reduce more: {reached}",
        f"at least {in_words(plan.min_bus_bandwidth)} (network.min_bus_bandwidth)",
        REMEDIES[without],
        "warning",
    )


def _is_reached(plan: Plan, measured: Measured) -> bool:
    best, wanted = measured.best, plan.min_bus_bandwidth
    return best is not None and wanted is not None and best.bus_bandwidth >= wanted


def _is_judged(measured: Measured) -> bool:
    """A network on which larger messages take too long is slow; memory that is taken says nothing of it."""
    return measured.best is not None and measured.sweep_end != "memory"


def _too_little(
    plan: Plan, measured: Measured, links: Mapping[str, Link], report: Report | None
) -> Iterator[Problem]:
    best, wanted = measured.best, plan.min_bus_bandwidth
    if best is None or wanted is None or _is_reached(plan, measured) or not _is_judged(measured):
        return
    found = f"an all-reduce reaches a bus bandwidth of {in_words(best.bus_bandwidth)} at best"
    carried = min((link.bandwidth for link in links.values()), default=None)
    could = f"; the links could carry {in_words(carried)}" if carried else ""
    through = f" over {report.verdict}" if report is not None and plan.workers else ""
    yield Problem(
        "bandwidth-low",
        plan.head.name,
        found + through + could,
        f"at least {in_words(wanted)} (network.min_bus_bandwidth)",
        _where_to_look(measured, report),
    )


def _where_to_look(measured: Measured, report: Report | None) -> str:
    causes = [f"{one.remedy} [{one.id}: {one.evidence}]" for one in (report.problems[:3] if report else ())]
    known = [pair for pair in measured.pairs if pair.bandwidth is not None]
    slowest = min(known, key=lambda pair: pair.of_a_rank, default=None)
    if slowest is not None and len(known) > 1:
        causes.append(
            f"The slowest pair is {slowest.a} and {slowest.b}: {in_words(slowest.bandwidth or 0.0)}"
        )
    causes.append(
        "`clusterctl verify --explain` says what each node uses; or lower network.min_bus_bandwidth"
    )
    return "\n".join(causes)


# --- pairs of nodes ---------------------------------------------------------------------------------


def _slow_pairs(measured: Measured, links: Mapping[str, Link]) -> Iterator[Problem]:
    known = [pair for pair in measured.pairs if pair.bandwidth is not None]
    if len(known) == 1:
        yield from _slower_than_its_link(known[0], links)
        return
    # Of a rank: two nodes of two GPUs carry less than two of eight, and are none the slower for it.
    rates = {(pair.a, pair.b): pair.of_a_rank for pair in known}
    usual = {key: median(rate for other, rate in rates.items() if other != key) for key in rates}
    slow = [Direction(a, b) for (a, b), rate in rates.items() if rate < usual[a, b] * SLOW_SHARE]
    for culprit in blame(slow):
        of_others = max(usual[one.src, one.dst] for one in culprit.links)
        yield _slower_than_others(culprit, rates, of_others, links)


def _slower_than_its_link(pair: PairRate, links: Mapping[str, Link]) -> Iterator[Problem]:
    ends = [links[name] for name in (pair.a, pair.b) if name in links]
    narrowest = min(ends, key=lambda link: link.bandwidth, default=None)
    rate = pair.bandwidth or 0.0
    if narrowest is None or rate >= narrowest.bandwidth * SLOW_SHARE_OF_LINK:
        return
    yield Problem(
        "network-slow",
        pair.b,
        f"{in_words(rate)} between {pair.a} and {pair.b}",
        f"at least a tenth of the {in_words(narrowest.bandwidth)} of {', '.join(narrowest.through)} "
        f"on {narrowest.node}",
        _look(pair.b, links) + f"; and the same on {pair.a}",
        "warning",
    )


def _slower_than_others(
    culprit: Blame, rates: Mapping[tuple[str, str], float], usual: float, links: Mapping[str, Link]
) -> Problem:
    pairs = ", ".join(
        f"{in_words(rates[link.src, link.dst])} a rank between {link.src} and {link.dst}"
        for link in culprit.links
    )
    return Problem(
        "network-slow",
        culprit.node,
        pairs,
        f"about {in_words(usual)} a rank, the median of the other pairs",
        _look(culprit.node, links),
        "warning",
    )


def _look(node: str, links: Mapping[str, Link]) -> str:
    command = "ip -br addr"
    if node in links:
        first = links[node].through[0]
        command = f"ibstat {first.partition(':')[0]}" if links[node].kind == "HCAs" else f"ethtool {first}"
    return (
        f"Run `{command}` on {node}: look at the speed, then at the cable, the switch port and what else "
        "uses the link"
    )
