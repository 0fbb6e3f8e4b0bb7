"""What stands against taking a log as proof: lines that are folded, cut or missing.

Every connection between nodes is said twice, by its sender and by its receiver, and each end decides on
GPUDirect for itself (NCCL src/transport/net.cc, sendSetup and recvSetup). So a channel counts as known only
where both ends' lines are whole. Rings and trees are announced before they are connected; hops of theirs
that no line shows are missing lines. Lines name no communicator: where several have the same hop, there must
be a line for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from cluster.nccl import rings
from cluster.nccl.attribution import Text
from cluster.nccl.events import Cut
from cluster.nccl.groups import UNNAMED, Group, GroupKey, Numbering, node_of
from cluster.nccl.links import Links
from cluster.nccl.log import Log
from cluster.nccl.model import Process
from cluster.nccl.state import Speech
from cluster.nccl.tally import add, lacking, merge


def doubts(log: Log, groups: Mapping[GroupKey, Group], numbers: Numbering, links: Links) -> tuple[str, ...]:
    """Why the log is no proof, the most telling first; empty for one that is whole."""
    spanning = [group for group in groups.values() if spans_nodes(group, log.speeches)]
    return (
        *_unreadable(log),
        *_strangers(groups, spanning, links),
        *_begun(log),
        *_one_sided(links),
        *_too_few(spanning, numbers, links),
        *(doubt for group in spanning for doubt in _of_group(group, links)),
        *_unheard(spanning, links),
    )


def spans_nodes(group: Group, speeches: Mapping[Process, Speech]) -> bool:
    """Whether a communicator goes over nodes: as NCCL counted them, else by their names."""
    if group.key == UNNAMED:
        return False
    names = {node_of(speeches[process]) for process, _ in group.members.values()}
    return (group.nodes_said or len(names)) > 1


def _unreadable(log: Log) -> Iterator[str]:
    if log.folded:
        yield f"{log.folded} lines were folded away (`[repeated ...]`)"
    if log.parts:
        more = f" (and {len(log.parts) - 1} more)" if len(log.parts) > 1 else ""
        yield f"the log of {log.parts[0]} is not whole{more}"
    cut = log.cut + sum(
        not _said_again(speech, cut, times)
        for speech in log.speeches.values()
        for cut, times in speech.cuts.items()
    )
    if cut:
        yield f"{cut} lines of channels are cut or run into one another"


def _said_again(speech: Speech, cut: Cut, times: int) -> bool:
    """Whether the same process said the same whole, where its log is written several times: as often as it
    would have, had this line been whole."""
    if cut.number is None:
        return False
    whole: list[int] = []
    for key, of_kind in speech.channels.items():
        for ends, tally in of_kind.items():
            if (ends[0], ends[2], key.connection) == (cut.src, cut.dst, cut.connection):
                merge(whole, [mask >> cut.number & 1 for mask in tally])
    said, copies = sum(whole), speech.copies
    return said > 0 and -(-said // copies) == -(-(said + times) // copies)


def _strangers(groups: Mapping[GroupKey, Group], spanning: list[Group], links: Links) -> Iterator[str]:
    if any(via.is_network for via in links.orphans):
        yield "channels over the network are of a communicator whose beginning is not in the log"
    if any(group.clash for group in groups.values()):
        yield "two processes of one hostname and process id cannot be told apart"
    if len({group.nodes_said is None for group in groups.values() if group.key != UNNAMED}) > 1:
        yield "no line says over how many nodes one of the communicators goes, as others do (`nNodes`)"
    if not spanning and any(link.between for link in links.links):
        yield "no line says which ranks there are (`Init COMPLETE`: NCCL_DEBUG_SUBSYS lacks INIT)"


def _begun(log: Log) -> Iterator[str]:
    """2.18.1 says no `Init START`: a communicator that is not finished shows by its rings and trees alone."""
    silent = (thread for thread in log.threads.values() if all(m.unannounced for m in thread.speech.members))
    if any(thread.stray.rings or thread.stray.parents for thread in silent):
        yield "rings or trees are of a communicator whose `Init COMPLETE` is not in the log"


def _one_sided(links: Links) -> Iterator[str]:
    torn = set()
    for link in links.links:
        pair = (link.src, link.dst, link.connection)
        if link.between and link.via.is_network and link.src != link.dst:
            most = links.rivals.get(pair, 1)
            if links.sent.get(pair, ())[:most] != links.received.get(pair, ())[:most]:
                torn.add((link.src, link.dst))
    if torn:
        src, dst = min(torn)
        more = f" (and {len(torn) - 1} more pairs)" if len(torn) > 1 else ""
        yield f"only one end says how channels from rank {src} to rank {dst} go{more}"


def _of_group(group: Group, links: Links) -> Iterator[str]:
    said = {rank: links.connected.get((group.key, rank), frozenset()) for rank in group.members}
    algorithms: frozenset[str] = frozenset().union(*said.values())
    lagging = [rank for rank, what in said.items() if what != algorithms]
    if lagging:
        what = " and ".join(sorted(algorithms))
        yield f"communicator {group.id}: rank {lagging[0]} lacks `Connected all {what}`, which others have"
    idle = [rank for rank in group.members if rank not in links.used.get(group.key, frozenset())]
    if not algorithms and idle:
        yield f"communicator {group.id}: rank {idle[0]} has connected no channel"
    if "rings" in algorithms and not rings.are_listed(group):
        yield f"communicator {group.id}: the lines that list its rings are missing"
    treeless = [rank for rank, (_, member) in sorted(group.members.items()) if not member.notes.parents]
    if "trees" in algorithms and treeless:
        yield f"communicator {group.id}: the line `Trees ...` of rank {treeless[0]} is missing"


def _unheard(spanning: Iterable[Group], links: Links) -> Iterator[str]:
    """Hops of rings and trees that no line shows, or fewer lines than communicators that have the hop."""
    wanted: dict[Text, list[int]] = {}
    perhaps: dict[Text, list[int]] = {}
    for group in spanning:
        hops, broken = _announced(group, links)
        if broken:
            yield f"communicator {group.id}: {broken[0]}"
        for channel, src, dst in hops:
            texts = links.supply.ways(group, channel, src, dst)
            if not texts:
                yield f"communicator {group.id}: no line for channel {channel} from rank {src} to rank {dst}"
                break
            for text in texts:
                add(wanted.setdefault(text, []), 1 << channel)
                if not links.supply.own.get((text, group.key), 0) >> channel & 1:
                    add(perhaps.setdefault(text, []), 1 << channel)
    for of, there in ((wanted, links.supply.total), (perhaps, links.supply.shared)):
        for text, times in of.items():
            if mask := lacking(times, there.get(text, ())):
                channel = (mask & -mask).bit_length() - 1
                yield (
                    f"several communicators have channel {channel} from their rank {text[1]} to {text[2]}, "
                    f"and {text[0][0]} has a line of it for fewer"
                )
                return


def _announced(group: Group, links: Links) -> tuple[list[rings.Hop], tuple[str, ...]]:
    """The hops of rings and trees, each once, as far as NCCL lists them or they follow from what is there."""
    said = (links.connected.get((group.key, rank), frozenset()) for rank in group.members)
    algorithms: frozenset[str] = frozenset().union(*said)
    hops, broken = rings.hops(group, links.supply) if "rings" in algorithms else ((), ())
    there = dict.fromkeys(hops)
    for rank, (_, member) in sorted(group.members.items()) if "trees" in algorithms else ():
        for channel, parent in sorted(member.notes.parents.items()):
            if parent >= 0:
                there.update({(channel, rank, parent): None, (channel, parent, rank): None})
    return list(there), broken


def _too_few(spanning: Iterable[Group], numbers: Numbering, links: Links) -> Iterator[str]:
    """Each communicator sends and receives over a known number of channels to each peer."""
    expected: dict[tuple[int, int], int] = {}
    messages = {(src, dst) for src, dst, connection in links.sent if connection == 1}
    for group in spanning:
        per_peer = {
            numbers.number.get((group.key, r)): member.notes.per_peer
            for r, (_, member) in group.members.items()
        }
        for src, dst in messages:
            count = per_peer.get(src)
            if count and dst in per_peer:
                expected[src, dst] = min(count, expected.get((src, dst), count))
    for (src, dst), count in sorted(expected.items()):
        pair = (src, dst, 1)
        sent = links.sent[pair][: links.rivals[pair]]
        known = sum((a & b).bit_count() for a, b in zip(sent, links.received.get(pair, ()), strict=False))
        if known < count * len(sent):
            yield (
                f"{known} of {count * len(sent)} channels of send and receive are known "
                f"from rank {src} to rank {dst}"
            )
            return
