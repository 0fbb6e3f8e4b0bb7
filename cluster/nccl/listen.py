"""What each of NCCL's sentences changes in what is known of its process."""

from __future__ import annotations

from cluster.nccl.events import (
    Channel,
    Connected,
    Cut,
    Devices,
    Event,
    Init,
    Interface,
    Network,
    PerPeer,
    Rate,
    Ring,
    Span,
    Trees,
    Variable,
    Version,
)
from cluster.nccl.state import Key, Member, Notes, Speech, Thread
from cluster.nccl.tally import add

MOST_CUTS = 1000


def apply(thread: Thread, event: Event) -> None:
    """Let `thread` have said `event`."""
    if isinstance(event, Channel):
        _channel(thread, event)
    elif isinstance(event, (Init, Span, Ring, Trees, Connected, PerPeer)):
        _communicator(thread, event)
    else:
        _process(thread.speech, event)


def _channel(thread: Thread, event: Channel) -> None:
    speech = thread.speech
    hint = thread.making.index if thread.making else -1
    key = Key(hint, len(speech.members), thread.device, event.way, event.connection, event.via)
    ends = (event.src, event.src_id, event.dst, event.dst_id)
    of_kind = speech.channels.setdefault(key, {})
    add(of_kind.setdefault(ends, []), 1 << event.number)
    thread.last = key, ends


def _communicator(thread: Thread, event: Init | Span | Ring | Trees | Connected | PerPeer) -> None:
    if isinstance(event, Init):
        _init(thread, event)
    elif isinstance(event, Span):
        if member := thread.speech.member(event.pointer):
            member.nodes = event.nodes
    elif isinstance(event, Ring):
        thread.notes.rings[event.channel] = event.order
        thread.notes.ring_total = event.total
    elif isinstance(event, Trees):
        thread.notes.parents.update({channel: parent for channel, _, parent in event.parents})
    elif isinstance(event, PerPeer):
        thread.notes.per_peer = event.channels
    elif thread.making:
        thread.making.notes.connected.add(event.what)
    else:
        key, ends = thread.last or (None, None)
        said = (event.what, len(thread.speech.members), key, ends)
        thread.speech.connected[said] = thread.speech.connected.get(said, 0) + 1


def _init(thread: Thread, event: Init) -> None:
    speech = thread.speech
    family = _family(speech, event)
    member = _known(speech, event, family)
    if member is None:
        group = _group(speech, family)
        ids = (event.device, event.nvml, event.bus_id)
        member = Member(len(speech.members), event.pointer, group, event.rank, event.size, *ids)
        speech.members.append(member)
        if event.complete:  # 2.18.1 says no START: what this thread said before belongs here
            member.notes = thread.stray
            member.unannounced = True
        thread.stray = Notes()
    if event.complete:
        member.complete = True
        member.ends += 1
        thread.making = None
    else:
        member.starts += 1
        thread.making = thread.making if member.complete else member


def _known(speech: Speech, event: Init, family: tuple[str, ...]) -> Member | None:
    """The member that begins or completes here, or whose line was written twice."""
    for member in reversed(speech.members):
        if (member.pointer, member.rank, member.group[: len(family)]) == (event.pointer, event.rank, family):
            return member
    return None


def _family(speech: Speech, event: Init) -> tuple[str, ...]:
    """A commId; or of a split what names it in all processes: its parent (a pointer, its own in each), the
    parent's count of splits, the colour."""
    if len(event.group) < 2:
        return event.group or (event.pointer,)
    parent = speech.member(event.group[0])
    return ("split", *(parent.group if parent else ("?",)), *event.group[1:])


def _group(speech: Speech, family: tuple[str, ...]) -> tuple[str, ...]:
    """2.23 says no count of splits: all ranks of the parent split it together, so each can be counted."""
    if len(family) < 2:
        return family
    length, parent = len(family) + 1, family[:-1]
    earlier = [m for m in speech.members if len(m.group) == length and m.group[: len(parent)] == parent]
    return (*family, str(len(earlier)))


def _process(speech: Speech, event: Event) -> None:
    if isinstance(event, Cut):
        if event in speech.cuts or len(speech.cuts) < MOST_CUTS:
            speech.cuts[event] = speech.cuts.get(event, 0) + 1
    elif isinstance(event, Variable):
        speech.environment[event.name] = event.value
    elif isinstance(event, Devices):
        listed = speech.devices.setdefault(event.network, {})
        for index, device in event.by_index:  # since 2.24 each is named twice, once without its link layer
            if device.link or index not in listed or listed[index].name != device.name:
                listed[index] = device
    elif isinstance(event, Rate):
        speech.rates[event.device.name, event.device.port] = event.device
    elif isinstance(event, Network):
        speech.networks.add(event.name)
    elif isinstance(event, Interface):
        speech.interface = event.name
    elif isinstance(event, Version):
        speech.versions.add(event.text)
