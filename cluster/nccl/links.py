"""Each channel's line given to the communicator that it is of: who is joined with whom, and how."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from cluster.nccl.attribution import Hearing, Supply, connected_of, owners
from cluster.nccl.devices import device_of
from cluster.nccl.events import Device, Via, Way
from cluster.nccl.groups import Group, GroupKey, Numbering, node_of
from cluster.nccl.model import Edge, NodePair, Process
from cluster.nccl.state import Ends, Speech
from cluster.nccl.tally import merge, single


@dataclass(frozen=True, slots=True)
class Link:
    """What one end said of its connection to the other, in the channels of `mask` (bit n is channel n)."""

    src: int
    dst: int
    connection: int
    way: Way
    via: Via
    device: Device | None
    between: bool
    mask: int


Pair = tuple[int, int, int]
"""src, dst, connection."""


@dataclass(frozen=True, slots=True)
class Links:
    """All of them; `used` are the ranks of each communicator that spoke of a channel of it, `orphans` how
    lines were that fit no communicator that the log begins. `sent` and `received` count what each end said
    of a pair's channels over the network, `rivals` the communicators that may have."""

    links: tuple[Link, ...]
    used: Mapping[GroupKey, frozenset[int]]
    orphans: frozenset[Via]
    connected: Mapping[tuple[GroupKey, int], frozenset[str]]
    supply: Supply
    sent: Mapping[Pair, tuple[int, ...]]
    received: Mapping[Pair, tuple[int, ...]]
    rivals: Mapping[Pair, int]


Entry = tuple[int, int, int, Way, Via, Device | None, bool]


@dataclass(slots=True)
class _Gathering:
    """Links on their way: all but their processes' lines is shared by all processes."""

    masks: dict[Entry, int] = field(default_factory=dict)
    used: dict[GroupKey, set[int]] = field(default_factory=dict)
    orphans: set[Via] = field(default_factory=set)
    supply: Supply = field(default_factory=Supply)
    ends: dict[Way, dict[Pair, tuple[int, ...]]] = field(default_factory=lambda: {"send": {}, "receive": {}})
    rivals: dict[Pair, int] = field(default_factory=dict)


def links_of(
    speeches: Mapping[Process, Speech], groups: Mapping[GroupKey, Group], numbers: Numbering
) -> Links:
    """Give every line its communicator, its ranks' numbers, its device's name."""
    into = _Gathering()
    nodes = {process: node_of(speech) for process, speech in speeches.items()}
    whole = {key: _names_are_whole(group, nodes) for key, group in groups.items()}
    for _, speech in sorted(speeches.items()):
        _gather(into, speech, groups, numbers, nodes, whole)
    frozen = {key: frozenset(ranks) for key, ranks in into.used.items()}
    links = tuple(Link(*entry, into.masks.pop(entry)) for entry in list(into.masks))  # never both in memory
    connected = connected_of(speeches, groups)
    ends = into.ends["send"], into.ends["receive"]
    return Links(links, frozen, frozenset(into.orphans), connected, into.supply, *ends, into.rivals)


def _gather(
    into: _Gathering,
    speech: Speech,
    groups: Mapping[GroupKey, Group],
    numbers: Numbering,
    nodes: Mapping[Process, str],
    whole: Mapping[GroupKey, bool],
) -> None:
    hearing = Hearing(into.supply, speech, into.used)
    members = speech.members or [
        m for g in groups.values() for p, m in g.members.values() if p == speech.process
    ]
    ends_said: dict[tuple[Way, Pair], list[int]] = {}
    for key, of_kind in speech.channels.items():
        device = device_of(speech, key.via)
        for ends, tally in of_kind.items():
            of = owners(members, groups, key, ends)
            if not of.members:
                into.orphans.add(key.via)
                continue
            hearing.take(key, ends, tally, of)
            group = groups[of.members[0].group]
            src, dst = (numbers.number.get((group.key, rank), -1) for rank in (ends[0], ends[2]))
            between = _is_between(group, nodes, whole[group.key], ends, key.via)
            entry = (src, dst, key.connection, key.way, key.via, device, between)
            into.masks[entry] = into.masks.get(entry, 0) | tally[0]
            pair = (src, dst, key.connection)
            if key.way:
                merge(ends_said.setdefault((key.way, pair), []), tally)
                into.rivals[pair] = max(into.rivals.get(pair, 1), of.rivals)
    hearing.close()
    for (way, pair), said in ends_said.items():
        into.ends[way][pair] = single(said, speech.copies)


def _names_are_whole(group: Group, nodes: Mapping[Process, str]) -> bool:
    """Whether the nodes' names tell as many nodes as NCCL counted."""
    names = {nodes[process] for process, _ in group.members.values()}
    return len(group.members) == group.size and group.nodes_said == len(names)


def _is_between(group: Group, nodes: Mapping[Process, str], whole: bool, ends: Ends, via: Via) -> bool:
    """Between nodes or not: by the nodes' names where they can be trusted, else by the transport, since the
    network within a node is the exception (P2P and SHM both off)."""
    if via.transport.startswith("COLLNET"):
        return True
    a, b = (group.members.get(rank) for rank in (ends[0], ends[2]))
    differ = a is not None and b is not None and nodes[a[0]] != nodes[b[0]]
    if via.transport == "P2P/MNNVL":
        return differ
    if not via.is_network:
        return False
    return differ or not (whole or group.nodes_said == 1) or a is None or b is None


def edges_of(links: Iterable[Link]) -> tuple[Edge, ...]:
    """Both ends' lines as one: a channel has GPUDirect only if no end said that it has none."""
    ends: dict[tuple[int, int, int], list[Link]] = {}
    for link in links:
        ends.setdefault((link.src, link.dst, link.connection), []).append(link)
    masks: dict[tuple[int, int, str, str | None, bool, int | None, bool], int] = {}
    for (src, dst, _), lines in ends.items():
        for link, gdrdma, mask in _joined(lines):
            device = link.device.name if link.device else None
            entry = (src, dst, link.via.transport, device, gdrdma, link.via.proxy, link.via.shared)
            masks[entry] = masks.get(entry, 0) | mask
    edges = [
        Edge(src, dst, transport, device, gdrdma, _channels(mask), proxy, shared)
        for (src, dst, transport, device, gdrdma, proxy, shared), mask in masks.items()
    ]
    return tuple(sorted(edges, key=_edge_order))


def _edge_order(edge: Edge) -> tuple[object, ...]:
    return edge.src, edge.dst, edge.transport, str(edge.device), edge.gdrdma, edge.shared, str(edge.proxy)


def _joined(lines: list[Link]) -> Iterator[tuple[Link, bool, int]]:
    """(the line that names the device, GPUDirect, channels): the sender's, a receiver's where none is."""
    plain = said = 0
    for link in lines:
        plain |= link.mask if not link.via.gdrdma else 0
        said |= link.mask if link.way != "receive" else 0
    for link in lines:
        mask = link.mask if link.way != "receive" else link.mask & ~said
        for gdrdma, part in ((True, mask & ~plain), (False, mask & plain)):
            if part:
                yield link, gdrdma, part


def _channels(mask: int) -> tuple[int, ...]:
    return tuple(number for number in range(mask.bit_length()) if mask >> number & 1)


def node_pairs_of(links: Iterable[Link], node: Mapping[int, str]) -> tuple[NodePair, ...]:
    """What joins each two nodes whose names are known, in either direction."""
    pairs: dict[tuple[str, str], list[Link]] = {}
    for link in links:
        a, b = sorted((node.get(link.src, ""), node.get(link.dst, "")))
        if link.between and a and a != b:
            pairs.setdefault((a, b), []).append(link)
    return tuple(
        NodePair(
            a,
            b,
            tuple(sorted({link.via.transport for link in of})),
            tuple(
                sorted(
                    {
                        link.device.name
                        for link in of
                        if link.device and link.via.quality in ("gdrdma", "rdma")
                    }
                )
            ),
            all(link.via.gdrdma for link in of),
        )
        for (a, b), of in sorted(pairs.items())
    )
