"""What was measured, as bandwidths in GB/s (10^9 bytes a second), and what the links could carry. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from cluster.choice import Choice, choose
from cluster.facts import Facts
from cluster.plan import Plan
from cluster.proof.answers import Heard, Size, Transfer

GIGA = 1e9
BITS = 8
LATENCY_BYTES = 8
SMALLEST = 1e-4  # below it, %g takes to exponents


@dataclass(frozen=True)
class AllReduce:
    """An all-reduce of `bytes` on each of `ranks` ranks.

    Algorithm bandwidth is size/time. Bus bandwidth is that times 2(n-1)/n: what each rank's link carries,
    whatever the number of ranks (https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md).
    """

    bytes: int
    seconds: float
    ranks: int

    @property
    def algorithm_bandwidth(self) -> float:
        return self.bytes / self.seconds / GIGA

    @property
    def bus_bandwidth(self) -> float:
        return self.algorithm_bandwidth * 2 * (self.ranks - 1) / self.ranks


@dataclass(frozen=True)
class PairRate:
    """Between two nodes, each way while both send, of all their ranks together; None: not measured."""

    a: str
    b: str
    bandwidth: float | None


@dataclass(frozen=True)
class StageRate:
    """From a rank to the one of the next pipeline stage, while all stages send."""

    src: int
    dst: int
    bandwidth: float


@dataclass(frozen=True)
class Link:
    """What a node could send in each direction: its HCAs in play together, or else its interface."""

    node: str
    through: tuple[str, ...]
    kind: Literal["HCAs", "interface"]
    bandwidth: float


@dataclass(frozen=True)
class Measured:
    """All of it. `latency` is in seconds, of an all-reduce of 8 bytes; None: not measured."""

    latency: float | None
    sweep: tuple[AllReduce, ...]
    stages: tuple[StageRate, ...]
    pairs: tuple[PairRate, ...]

    @property
    def best(self) -> AllReduce | None:
        """The size with the largest bus bandwidth."""
        return max(self.sweep, key=lambda one: one.bus_bandwidth, default=None)


def measured(heard: Heard) -> Measured:
    """The answers of all nodes as one. The ranks agree on each size's time: one node speaks for all."""
    sizes: tuple[Size, ...] = max((a.sweep for a in heard.answers.values()), key=len, default=())
    ranks = heard.plan.gpus
    stages = (one for answer in heard.answers.values() for one in answer.stages)
    return Measured(
        latency=next((size.seconds for size in sizes if size.bytes == LATENCY_BYTES), None),
        sweep=tuple(AllReduce(size.bytes, size.seconds, ranks) for size in sizes),
        stages=tuple(StageRate(one.src, one.dst, _rate(one)) for one in sorted(stages, key=lambda s: s.src)),
        pairs=_pairs(heard),
    )


def _pairs(heard: Heard) -> tuple[PairRate, ...]:
    """Of each two nodes, what one of them measured: the ranks of a pair agree on their times."""
    rates: dict[tuple[str, str], list[Transfer]] = defaultdict(list)
    for answer in heard.answers.values():
        for one in answer.pairs:
            rates[heard.node_of(one.src), heard.node_of(one.dst)].append(one)
    names = (member.name for member in heard.plan.members)
    return tuple(
        PairRate(a, b, sum(map(_rate, found)) if (found := rates[a, b] or rates[b, a]) else None)
        for a, b in combinations(names, 2)
    )


def _rate(transfer: Transfer) -> float:
    return transfer.bytes / transfer.seconds / GIGA


def links(plan: Plan, facts: Mapping[str, Facts]) -> dict[str, Link]:
    """{node: Link} of every node whose rates are known; nothing for a single node."""
    choices = choose(plan, facts) if plan.workers else {}
    found = (_link(plan, name, facts[name], choice) for name, choice in choices.items())
    return {link.node: link for link in found if link is not None}


def _link(plan: Plan, name: str, facts: Facts, choice: Choice) -> Link | None:
    hcas = sum(port.rate for port in choice.in_play) if plan.runtime.device == "cuda" else 0
    if hcas:
        return Link(name, tuple(port.name for port in choice.in_play), "HCAs", hcas / BITS)
    interface = facts.interfaces.get(choice.interface or "")
    if interface is None or not interface.speed:
        return None
    return Link(name, (choice.interface or "",), "interface", interface.speed / 1000 / BITS)


def in_words(bandwidth: float) -> str:
    """`349 GB/s`, `0.0118 GB/s`."""
    return f"{bandwidth:.3g} GB/s" if bandwidth >= SMALLEST else f"{bandwidth:.6f} GB/s"
