"""What was measured, as bandwidths in GB/s (10^9 bytes a second), and what the links could carry. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from cluster.choice import Choice, Port, choose
from cluster.facts import Facts
from cluster.on_node.collectives_sizes import LATENCY_BYTES
from cluster.plan import Plan
from cluster.proof.answers import Heard, Size, SweepEnd, Transfer

GIGA = 1e9
BITS = 8
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
    """Between two nodes, each way while both send, of all `ranks` of each that took part; None: not measured.

    A rank of the one sends to the rank of the other that has the same local rank, so that as many take part
    as the node with fewer GPUs has.
    """

    a: str
    b: str
    bandwidth: float | None
    ranks: int

    @property
    def of_a_rank(self) -> float:
        """0 where nothing was measured."""
        return (self.bandwidth or 0.0) / max(1, self.ranks)


@dataclass(frozen=True)
class StageRate:
    """From a rank to the one of the next pipeline stage, while all stages send."""

    src: int
    dst: int
    bandwidth: float


@dataclass(frozen=True)
class Link:
    """What a node could send in each direction: the HCAs of its GPUs together, or else its interface."""

    node: str
    through: tuple[str, ...]
    kind: Literal["HCAs", "interface"]
    bandwidth: float


@dataclass(frozen=True)
class Measured:
    """All of it. `latency` is in seconds, of an all-reduce of 8 bytes; None: not measured.

    `sweep_end` is why there is no larger size in the sweep.
    """

    latency: float | None
    sweep: tuple[AllReduce, ...]
    stages: tuple[StageRate, ...]
    pairs: tuple[PairRate, ...]
    sweep_end: SweepEnd = ""

    @property
    def best(self) -> AllReduce | None:
        """The size with the largest bus bandwidth."""
        return max(self.sweep, key=lambda one: one.bus_bandwidth, default=None)


def measured(heard: Heard) -> Measured:
    """The answers of all nodes as one. The ranks agree on each size's time: one node speaks for all."""
    fullest = max(heard.answers.values(), key=lambda answer: len(answer.sweep), default=None)
    sizes: tuple[Size, ...] = fullest.sweep if fullest is not None else ()
    ranks = heard.plan.gpus
    stages = (one for answer in heard.answers.values() for one in answer.stages)
    return Measured(
        latency=next((size.seconds for size in sizes if size.bytes == LATENCY_BYTES), None),
        sweep=tuple(AllReduce(size.bytes, size.seconds, ranks) for size in sizes),
        stages=tuple(StageRate(one.src, one.dst, _rate(one)) for one in sorted(stages, key=lambda s: s.src)),
        pairs=_pairs(heard),
        sweep_end=fullest.sweep_end if fullest is not None else "",
    )


def _pairs(heard: Heard) -> tuple[PairRate, ...]:
    """Of each two nodes, what one of them measured: the ranks of a pair agree on their times."""
    rates: dict[tuple[str, str], list[Transfer]] = defaultdict(list)
    for answer in heard.answers.values():
        for one in answer.pairs:
            rates[heard.node_of(one.src), heard.node_of(one.dst)].append(one)
    names = (member.name for member in heard.plan.members)
    return tuple(_pair(a, b, rates[a, b] or rates[b, a]) for a, b in combinations(names, 2))


def _pair(a: str, b: str, transfers: list[Transfer]) -> PairRate:
    return PairRate(a, b, sum(map(_rate, transfers)) if transfers else None, len(transfers))


def _rate(transfer: Transfer) -> float:
    return transfer.bytes / transfer.seconds / GIGA


def links(plan: Plan, facts: Mapping[str, Facts]) -> dict[str, Link]:
    """{node: Link} of every node whose rates are known; nothing for a single node."""
    choices = choose(plan, facts) if plan.workers else {}
    found = (_link(plan, name, facts[name], choice) for name, choice in choices.items())
    return {link.node: link for link in found if link is not None}


def _link(plan: Plan, name: str, facts: Facts, choice: Choice) -> Link | None:
    ports = _ports(choice, plan.member(name).node.gpus) if plan.runtime.device == "cuda" else ()
    if rate := sum(port.rate for port in ports):
        return Link(name, tuple(port.name for port in ports), "HCAs", rate / BITS)
    interface = facts.interfaces.get(choice.interface or "")
    if interface is None or not interface.speed:
        return None
    return Link(name, (choice.interface or "",), "interface", interface.speed / 1000 / BITS)


def _ports(choice: Choice, gpus: int) -> tuple[Port, ...]:
    """Those that the first `gpus` GPUs of the node have near them, or as many as they are: the ranks use the
    first GPUs, and NCCL gives each the HCAs that are nearest to it.
    """
    taking_part = {f"GPU{number}" for number in range(gpus)}
    near = tuple(port for port in choice.in_play if taking_part & set(port.gpus))
    return near or choice.in_play[:gpus]


def in_words(bandwidth: float) -> str:
    """`349 GB/s`, `0.0118 GB/s`."""
    return f"{bandwidth:.3g} GB/s" if bandwidth >= SMALLEST else f"{bandwidth:.6f} GB/s"
