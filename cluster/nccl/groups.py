"""Communicators over their processes, and one numbering of all ranks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cluster.nccl.model import Communicator, Process, Rank, Unfinished
from cluster.nccl.state import Ends, Key, Member, Speech

GroupKey = tuple[str, ...]
Gpu = tuple[Process, int]
"""A process and CUDA's index in it: what one rank of any communicator runs on."""
MOST_UNFINISHED = 4096
UNNAMED: GroupKey = ("",)


@dataclass(slots=True)
class Group:
    """A communicator with those of its ranks that spoke."""

    key: GroupKey
    size: int
    members: dict[int, tuple[Process, Member]] = field(default_factory=dict)
    clash: bool = False
    nodes_said: int | None = None
    gpus: set[Gpu] = field(default_factory=set)

    @property
    def id(self) -> str:
        return "/".join(self.key)

    @property
    def is_complete(self) -> bool:
        return len(self.members) == self.size and all(member.complete for _, member in self.members.values())


def node_of(speech: Speech) -> str:
    """What NCCL itself tells nodes apart by: NCCL_HOSTID where it was set, else the hostname."""
    return speech.environment.get("NCCL_HOSTID") or speech.process[0]


def groups_of(speeches: Mapping[Process, Speech]) -> dict[GroupKey, Group]:
    """All communicators; where no line begins one, a nameless one of the ranks that channels speak of."""
    groups: dict[GroupKey, Group] = {}
    for process in sorted(speeches):
        for member in speeches[process].members:
            _join(groups.setdefault(member.group, Group(member.group, member.size)), process, member)
    if not groups:
        for process in sorted(speeches):
            for member in _inferred(speeches[process]):
                group = groups.setdefault(UNNAMED, Group(UNNAMED, 0))
                group.size = max(group.size, member.size)
                group.members.setdefault(member.rank, (process, member))
    return dict(sorted(groups.items()))


def _join(group: Group, process: Process, member: Member) -> None:
    """`clash`: two processes say that they are one rank, or one says it is two on one GPU: names lie."""
    gpu = (process, member.device)
    group.clash |= member.rank in group.members or gpu in group.gpus or member.size != group.size
    group.gpus.add(gpu)
    group.nodes_said = max(group.nodes_said or 0, member.nodes or 0) or None
    group.size = max(group.size, member.size)
    group.members.setdefault(member.rank, (process, member))


def _inferred(speech: Speech) -> Iterable[Member]:
    """Who a process must be by its channels' lines, where the log lacks how it began."""
    seen: dict[int, tuple[int, int]] = {}
    size = 0
    for key, of_kind in speech.channels.items():
        for ends in of_kind:
            me, gpu, peer, _ = own_first(key, ends)
            size = max(size, me + 1, peer + 1)
            seen.setdefault(me, (key.device, gpu))
    for rank, (device, gpu) in sorted(seen.items()):
        yield Member(-1, "", UNNAMED, rank, size, device, None, f"{max(gpu, 0):x}")


def own_first(key: Key, ends: Ends) -> Ends:
    """(own rank, own GPU, the peer's rank, its GPU): a receiver's line has the sender first."""
    src, src_id, dst, dst_id = ends
    return (dst, dst_id, src, src_id) if key.way == "receive" else ends


def natural(text: str) -> tuple[tuple[int, str], ...]:
    """gpu-2 before gpu-10."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text))


@dataclass(frozen=True, slots=True)
class Numbering:
    """`ranks` in the order of their numbers; `number` of a group's rank, also of one that never spoke."""

    ranks: tuple[Rank, ...]
    number: Mapping[tuple[GroupKey, int], int]


def numbering(groups: Mapping[GroupKey, Group], speeches: Mapping[Process, Speech]) -> Numbering:
    """The largest communicator's numbers where all GPUs are in it; else counted over nodes and devices."""
    nodes = {process: node_of(speech) for process, speech in speeches.items()}
    gpus: dict[Gpu, Member] = {}
    for group in groups.values():
        for process, member in group.members.values():
            gpus.setdefault((process, member.device), member)
    order = _world(groups, gpus)
    if not order:
        counted = sorted(gpus, key=lambda gpu: _place(gpu, gpus, nodes))
        order.update(enumerate(counted))
    number = {gpu: n for n, gpu in order.items() if gpu is not None}
    mapping: dict[tuple[GroupKey, int], int] = {}
    following = max(order, default=-1) + 1
    world = len(order) > len(number)
    for group in groups.values():
        for rank in range(group.size if group.size <= MOST_UNFINISHED else 0):
            if found := group.members.get(rank):
                mapping[group.key, rank] = number[found[0], found[1].device]
            elif world and group.size == len(order):
                mapping[group.key, rank] = rank
            else:
                mapping[group.key, rank] = following
                following += 1
    ranks = [_rank(n, order.get(n), gpus, nodes) for n in range(following)]
    return Numbering(tuple(ranks), mapping)


def _world(groups: Mapping[GroupKey, Group], gpus: Mapping[Gpu, Member]) -> dict[int, Gpu | None]:
    """{rank: GPU or None for one that never spoke} of a communicator that has all; {} if there is none."""
    for group in sorted(groups.values(), key=lambda group: (-group.size, -len(group.members), group.key)):
        found = {rank: (process, member.device) for rank, (process, member) in group.members.items()}
        if set(found.values()) == set(gpus) and not group.clash and group.size <= MOST_UNFINISHED:
            return {rank: found.get(rank) for rank in range(group.size)}
    return {}


def _place(gpu: Gpu, gpus: Mapping[Gpu, Member], nodes: Mapping[Process, str]) -> tuple[object, ...]:
    process, device = gpu
    member = gpus[gpu]
    return natural(nodes[process]), device if member.nvml is None else member.nvml, device, process


def _rank(number: int, gpu: Gpu | None, gpus: Mapping[Gpu, Member], nodes: Mapping[Process, str]) -> Rank:
    if gpu is None:
        return Rank(number, "", None, None, None)
    return Rank(number, nodes[gpu[0]], gpu[0][1], gpu[1], gpus[gpu].bus_id or None)


def unfinished(
    groups: Mapping[GroupKey, Group], speeches: Mapping[Process, Speech]
) -> tuple[Unfinished, ...]:
    """Ranks that began and did not end, and those that a communicator counts and that never spoke."""
    lacking = []
    for group in groups.values():
        for rank in range(min(group.size, MOST_UNFINISHED) if group.key != UNNAMED else 0):
            found = group.members.get(rank)
            if found is None:
                lacking.append(Unfinished(group.id, rank, "", None, started=False))
            elif not found[1].complete:
                process = found[0]
                node = node_of(speeches[process])
                lacking.append(Unfinished(group.id, rank, node, process[1], started=True))
    return tuple(lacking)


def communicators(groups: Mapping[GroupKey, Group], numbers: Numbering) -> tuple[Communicator, ...]:
    """As the report has them."""
    return tuple(
        Communicator(
            group.id,
            group.size,
            tuple(
                numbers.number.get((group.key, rank), -1) if rank in group.members else -1
                for rank in range(min(group.size, MOST_UNFINISHED))
            ),
            group.nodes_said,
            group.is_complete,
        )
        for group in groups.values()
        if group.key != UNNAMED
    )
