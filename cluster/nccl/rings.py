"""The rings that rank 0 lists, and what its line leaves out, told by the channels that are there.

NCCL lists the first 20 ranks (up to 2.21.5) or 127 characters (src/graph/rings.cc, since 2.23).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cluster.nccl.attribution import Supply
from cluster.nccl.groups import Group

Hop = tuple[int, int, int]
"""(channel, from, to): ranks of the communicator."""
Side = tuple[bool, int]
"""(whether a way leaves it, a rank)."""


def are_listed(group: Group) -> bool:
    first = group.members.get(0)
    return first is not None and 0 < first[1].notes.ring_total <= len(first[1].notes.rings)


def hops(group: Group, supply: Supply) -> tuple[tuple[Hop, ...], tuple[str, ...]]:
    """(the hops of all rings as far as they are certain, how rings are broken where nothing is listed)."""
    certain: list[Hop] = []
    broken: list[str] = []
    for _, (_, member) in sorted(group.members.items()):
        for channel, order in sorted(member.notes.rings.items()):
            whole = len(order) == group.size
            onward = (*order[1:], *(order[:1] if whole else ()))
            certain += [(channel, src, dst) for src, dst in zip(order, onward, strict=False)]
            if not whole and len(group.members) == group.size:
                more, torn = _rest(group, supply, channel, order)
                certain += more
                broken += torn
    return tuple(certain), tuple(broken)


def _rest(group: Group, supply: Supply, channel: int, order: tuple[int, ...]) -> tuple[list[Hop], list[str]]:
    """Each rank that is not listed has one way in and one out, and so do the list's ends: what follows from
    the channels that there are, the only way of a rank being taken away from the others."""
    listed = set(order)
    rest = [rank for rank in group.members if rank not in listed]
    ways = _ways(group, supply, channel, [*order[-1:], *rest], [*rest, *order[:1]])
    certain: list[Hop] = []
    waiting = [side for side, others in ways.items() if len(others) < 2]
    while waiting:
        side = waiting.pop()
        if side not in ways:
            continue
        if not ways[side]:
            what = "from" if side[0] else "to"
            return certain, [f"no line for the way of channel {channel}'s ring {what} rank {side[1]}"]
        (other,) = ways[side]
        src, dst = (side, other) if side[0] else (other, side)
        certain.append((channel, src[1], dst[1]))
        waiting += _without(ways, (side, other))
    return certain, []


def _ways(
    group: Group, supply: Supply, channel: int, outs: Iterable[int], ins: Iterable[int]
) -> dict[Side, set[Side]]:
    ways: dict[Side, set[Side]] = {(False, rank): set() for rank in ins}
    for src in outs:
        peers = supply.peers.get((group.members[src][0], src), set()) if src in group.members else set()
        ways[True, src] = {
            (False, dst) for dst in peers if (False, dst) in ways and supply.ways(group, channel, src, dst)
        }
        for side in ways[True, src]:
            ways[side].add((True, src))
    return ways


def _without(ways: dict[Side, set[Side]], taken: tuple[Side, Side]) -> Iterator[Side]:
    """Which sides have one way left, or none, without those that are taken."""
    for one in taken:
        for side in ways.pop(one):
            if side in ways:
                ways[side].discard(one)
                if len(ways[side]) < 2:
                    yield side
