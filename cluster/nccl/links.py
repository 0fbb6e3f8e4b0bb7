"""Each channel's line given to the communicator that it is of: who is joined with whom, and how."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from cluster.nccl.events import Device, Via, Way
from cluster.nccl.groups import Group, GroupKey, Numbering, node_of, own_first
from cluster.nccl.model import Edge, NodePair, Process
from cluster.nccl.state import Ends, Key, Member, Speech


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


@dataclass(frozen=True, slots=True)
class Links:
    """All of them; `used` are the ranks of each communicator that spoke of a channel of it, `orphans` how
    lines were that fit no communicator that the log begins."""

    links: tuple[Link, ...]
    used: Mapping[GroupKey, frozenset[int]]
    orphans: frozenset[Via]
    connected: Mapping[tuple[GroupKey, int], frozenset[str]]


def links_of(
    speeches: Mapping[Process, Speech], groups: Mapping[GroupKey, Group], numbers: Numbering
) -> Links:
    """Give every line its communicator, its ranks' numbers, its device's name."""
    masks: dict[tuple[int, int, int, Way, Via, Device | None, bool], int] = {}
    used: dict[GroupKey, set[int]] = {}
    orphans: set[Via] = set()
    nodes = {process: node_of(speech) for process, speech in speeches.items()}
    whole = {key: _names_are_whole(group, nodes) for key, group in groups.items()}
    for process, speech in sorted(speeches.items()):
        members = speech.members or [
            m for g in groups.values() for p, m in g.members.values() if p == process
        ]
        for key, of_kind in speech.channels.items():
            device = _device(speech, key.via)
            for ends, mask in of_kind.items():
                member = owner(members, groups, key, ends)
                if member is None:
                    orphans.add(key.via)
                    continue
                group = groups[member.group]
                used.setdefault(group.key, set()).add(member.rank)
                src, dst = (numbers.number.get((group.key, rank), -1) for rank in (ends[0], ends[2]))
                between = _is_between(group, nodes, whole[group.key], ends, key.via)
                entry = (src, dst, key.connection, key.way, key.via, device, between)
                masks[entry] = masks.get(entry, 0) | mask
    frozen = {key: frozenset(ranks) for key, ranks in used.items()}
    links = tuple(Link(*entry, masks.pop(entry)) for entry in list(masks))  # never both in memory
    return Links(links, frozen, frozenset(orphans), _connected(speeches, groups))


def owner(members: Iterable[Member], groups: Mapping[GroupKey, Group], key: Key, ends: Ends) -> Member | None:
    """The communicator that a line is of: it fits rank, size and both GPUs; where several do, the one that
    the thread was making, else one of several nodes for a network's line, else the latest begun before it."""
    rank, gpu, peer, peer_gpu = own_first(key, ends)
    fitting = [
        member
        for member in members
        if member.rank == rank
        and member.size > peer
        and member.is_gpu(gpu)
        and _is_peer(groups[member.group], peer, peer_gpu)
    ]
    if not fitting:
        return None
    fitting = [member for member in fitting if member.device == key.device] or fitting

    def rating(member: Member) -> tuple[bool, bool, bool, int]:
        begun = member.index < key.epoch
        making = member.index == key.hint
        if member.unannounced and member.index == key.epoch:
            begun = making = True
        spans = groups[member.group].nodes_said != 1
        return making, begun, spans == key.via.is_network, member.index if begun else -member.index

    return max(fitting, key=rating)


def _is_peer(group: Group, rank: int, gpu: int) -> bool:
    found = group.members.get(rank)
    return found is None or found[1].is_gpu(gpu)


def _connected(
    speeches: Mapping[Process, Speech], groups: Mapping[GroupKey, Group]
) -> Mapping[tuple[GroupKey, int], frozenset[str]]:
    """Which algorithms' connections each rank of each communicator said to be made.

    The line names no communicator: it is of the one that the thread was making, else of that of its last
    channel, else of the latest.
    """
    said: dict[tuple[GroupKey, int], set[str]] = {}
    for speech in speeches.values():
        for member in speech.members:
            said.setdefault((member.group, member.rank), set()).update(member.notes.connected)
        for what, epoch, key, ends in speech.connected:
            found = owner(speech.members, groups, key, ends) if key and ends else None
            member_at = speech.members[epoch - 1] if epoch else None
            if at := found or member_at:
                said.setdefault((at.group, at.rank), set()).add(what)
    return {key: frozenset(what) for key, what in said.items()}


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


def _device(speech: Speech, via: Via) -> Device | None:
    if via.device is None:
        return None
    kind = "IB" if via.transport.startswith("NET/IB") else via.transport.removeprefix("NET/")
    return speech.devices.get(kind, {}).get(via.device) or Device(str(via.device))


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
