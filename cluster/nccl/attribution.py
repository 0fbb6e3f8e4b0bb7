"""Whose line is it: NCCL's lines of channels name ranks and GPUs, and no communicator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cluster.nccl.groups import Group, GroupKey, own_first
from cluster.nccl.model import Process
from cluster.nccl.state import Ends, Key, Member, Speech
from cluster.nccl.tally import add, merge, single

Text = tuple[Process, int, int, int, str]
"""Who says it, from which rank to which, connection, way: alike for all communicators with these ranks."""


@dataclass(frozen=True, slots=True)
class Owners:
    """The communicators that a line may be of, the likeliest first; `rivals` is how many of its process fit
    its ranks and GPUs, whenever they began."""

    members: tuple[Member, ...]
    rivals: int


NOBODY = Owners((), 0)


def owners(members: Iterable[Member], groups: Mapping[GroupKey, Group], key: Key, ends: Ends) -> Owners:
    """Those that fit rank, size and both GPUs: the one that the thread was making, else all that had begun,
    first those of several nodes for a network's line, then the latest."""
    rank, gpu, peer, peer_gpu = own_first(key, ends)
    fitting = [
        member
        for member in members
        if member.rank == rank
        and member.size > peer
        and member.is_gpu(gpu)
        and _is_peer(groups[member.group], peer, peer_gpu)
    ]
    fitting = [member for member in fitting if member.device == key.device] or fitting
    if len(fitting) < 2:
        return Owners(tuple(fitting), len(fitting)) if fitting else NOBODY
    making = [member for member in fitting if _is_made(member, key)]
    begun = [member for member in fitting if member.index < key.epoch]
    if making and key.connection == 0:
        return Owners(tuple(making[:1]), len(fitting))

    def rating(member: Member) -> tuple[bool, bool, int]:
        spans = groups[member.group].nodes_said != 1
        return member in making, spans == key.via.is_network, member.index if begun else -member.index

    likely = {member.index: member for member in (*making, *(begun or fitting))}
    return Owners(tuple(sorted(likely.values(), key=rating, reverse=True)), len(fitting))


def _is_made(member: Member, key: Key) -> bool:
    return member.index == key.hint or (member.unannounced and member.index == key.epoch)


def _is_peer(group: Group, rank: int, gpu: int) -> bool:
    found = group.members.get(rank)
    return found is None or found[1].is_gpu(gpu)


@dataclass(slots=True)
class Supply:
    """What lines there are to show channels: `own` of one communicator for certain, `shared` where several
    may have said them, `total` together. Each is counted once, however often the log was written."""

    own: dict[tuple[Text, GroupKey], int] = field(default_factory=dict)
    shared: dict[Text, tuple[int, ...]] = field(default_factory=dict)
    total: dict[Text, tuple[int, ...]] = field(default_factory=dict)
    peers: dict[tuple[Process, int], set[int]] = field(default_factory=dict)

    def hears(self, text: Text, group: GroupKey, channel: int) -> bool:
        """Whether a line shows this channel, of the communicator or perhaps of it."""
        mask = self.own.get((text, group), 0) | next(iter(self.shared.get(text, ())), 0)
        return bool(mask >> channel & 1)

    def ways(self, group: Group, channel: int, src: int, dst: int) -> tuple[Text, ...]:
        """The lines that show a hop of a ring or a tree: one of P2P or SHM, or both ends' of the network;
        empty where they do not."""
        a, b = group.members.get(src), group.members.get(dst)
        if a is None or b is None:
            return ()
        local: Text = (a[0], src, dst, 0, "")
        if self.hears(local, group.key, channel):
            return (local,)
        both: tuple[Text, ...] = ((a[0], src, dst, 0, "send"), (b[0], src, dst, 0, "receive"))
        return both if all(self.hears(text, group.key, channel) for text in both) else ()


@dataclass(slots=True)
class Hearing:
    """The lines of one process, on their way into a Supply."""

    supply: Supply
    speech: Speech
    used: dict[GroupKey, set[int]]
    _shared: dict[tuple[Text, tuple[int, ...]], list[int]] = field(default_factory=dict)
    _total: dict[Text, list[int]] = field(default_factory=dict)

    def take(self, key: Key, ends: Ends, tally: list[int], of: Owners) -> None:
        """A line that was said as often as `tally` has it."""
        text: Text = (self.speech.process, ends[0], ends[2], key.connection, key.way)
        merge(self._total.setdefault(text, []), tally)
        if key.connection == 0 and key.way != "receive":
            self.supply.peers.setdefault((self.speech.process, ends[0]), set()).add(ends[2])
        if len(of.members) == 1:
            (member,) = of.members
            own = text, member.group
            self.supply.own[own] = self.supply.own.get(own, 0) | tally[0]
            self.used.setdefault(member.group, set()).add(member.rank)
        else:
            entry = text, tuple(member.index for member in of.members)
            merge(self._shared.setdefault(entry, []), tally)

    def close(self) -> None:
        """All of the process is said: as many communicators have connected as the lines suffice for."""
        copies = self.speech.copies
        self.supply.total.update({text: single(tally, copies) for text, tally in self._total.items()})
        together: dict[Text, list[int]] = {}
        for (text, indices), tally in self._shared.items():
            merge(together.setdefault(text, []), tally)
            for index in indices[: len(single(tally, copies))]:
                member = self.speech.members[index]
                self.used.setdefault(member.group, set()).add(member.rank)
        self.supply.shared.update({text: single(tally, copies) for text, tally in together.items()})


def connected_of(
    speeches: Mapping[Process, Speech], groups: Mapping[GroupKey, Group]
) -> Mapping[tuple[GroupKey, int], frozenset[str]]:
    """Which algorithms' connections each rank of each communicator said to be made.

    The line names no communicator: it is of the one that the thread was making, else of that of its last
    channel, else of the latest. Where several may have said it, as many of them did as there are lines.
    """
    said: dict[tuple[GroupKey, int], set[str]] = {}
    for speech in speeches.values():
        for member in speech.members:
            said.setdefault((member.group, member.rank), set()).update(member.notes.connected)
        lines: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        for (what, epoch, key, ends), times in speech.connected.items():
            found = owners(speech.members, groups, key, ends).members if key and ends else ()
            of = found or tuple(speech.members[max(epoch - 1, 0) : epoch])
            tally = lines.setdefault((what, tuple(member.index for member in of)), [])
            for _ in range(min(times, len(speech.members) * speech.copies)):
                add(tally, 1)
        for (what, indices), tally in lines.items():
            for index in indices[: len(single(tally, speech.copies))]:
                at = speech.members[index]
                said.setdefault((at.group, at.rank), set()).add(what)
    return {key: frozenset(what) for key, what in said.items()}
