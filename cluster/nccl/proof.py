"""What stands against taking a log as proof: lines that are folded, cut or missing.

Every connection between nodes is said twice, by its sender and by its receiver, and each end decides on
GPUDirect for itself (NCCL src/transport/net.cc, sendSetup and recvSetup). So a channel counts as known only
where both ends' lines are whole. Rings and trees are announced before they are connected; hops of theirs
that no line shows are missing lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from cluster.nccl.events import Cut
from cluster.nccl.groups import UNNAMED, Group, GroupKey, Numbering, node_of
from cluster.nccl.links import Link, Links
from cluster.nccl.log import Log
from cluster.nccl.model import Process
from cluster.nccl.state import Speech

Pool = Mapping[tuple[int, int, int], tuple[int, int, int]]
"""(src, dst, connection): masks of the channels that the sender, the receiver, and P2P or SHM said."""


def doubts(log: Log, groups: Mapping[GroupKey, Group], numbers: Numbering, links: Links) -> tuple[str, ...]:
    """Why the log is no proof, the most telling first; empty for one that is whole."""
    pool = _pool(links.links)
    spanning = [group for group in groups.values() if spans_nodes(group, log.speeches)]
    return (
        *_unreadable(log),
        *_strangers(groups, spanning, links),
        *_begun(log),
        *_one_sided(links.links, pool),
        *_too_few(spanning, numbers, pool),
        *(doubt for group in spanning for doubt in _of_group(group, numbers, links, pool)),
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
    cut = log.cut + sum(
        not _said_again(speech, cut) for speech in log.speeches.values() for cut in speech.cuts
    )
    if cut:
        yield f"{cut} lines of channels are cut or run into one another"


def _said_again(speech: Speech, cut: Cut) -> bool:
    """Whether the same process said the same whole, as where a log is written twice."""
    if cut.number is None:
        return False
    for key, of_kind in speech.channels.items():
        for ends, mask in of_kind.items():
            if (ends[0], ends[2], key.connection) == (
                cut.src,
                cut.dst,
                cut.connection,
            ) and mask >> cut.number & 1:
                return True
    return False


def _strangers(groups: Mapping[GroupKey, Group], spanning: list[Group], links: Links) -> Iterator[str]:
    if any(via.is_network for via in links.orphans):
        yield "channels over the network are of a communicator whose beginning is not in the log"
    if any(group.clash for group in groups.values()):
        yield "two processes of one hostname and process id cannot be told apart"
    if not spanning and any(link.between for link in links.links):
        yield "no line says which ranks there are (`Init COMPLETE`: NCCL_DEBUG_SUBSYS lacks INIT)"


def _begun(log: Log) -> Iterator[str]:
    """2.18.1 says no `Init START`: a communicator that is not finished shows by its rings and trees alone."""
    silent = (thread for thread in log.threads.values() if all(m.unannounced for m in thread.speech.members))
    if any(thread.stray.rings or thread.stray.parents for thread in silent):
        yield "rings or trees are of a communicator whose `Init COMPLETE` is not in the log"


def _pool(links: Iterable[Link]) -> Pool:
    pool: dict[tuple[int, int, int], tuple[int, int, int]] = {}
    for link in links:
        key = (link.src, link.dst, link.connection)
        sent, received, local = pool.get(key, (0, 0, 0))
        if not link.via.is_network:
            local |= link.mask
        elif link.way == "send":
            sent |= link.mask
        else:
            received |= link.mask
        pool[key] = (sent, received, local)
    return pool


def _one_sided(links: Iterable[Link], pool: Pool) -> Iterator[str]:
    lacking = set()
    for link in links:
        sent, received, _ = pool[link.src, link.dst, link.connection]
        if link.between and link.via.is_network and sent != received and link.src != link.dst:
            lacking.add((link.src, link.dst))
    if lacking:
        src, dst = min(lacking)
        more = f" (and {len(lacking) - 1} more pairs)" if len(lacking) > 1 else ""
        yield f"only one end says how channels from rank {src} to rank {dst} go{more}"


def _of_group(group: Group, numbers: Numbering, links: Links, pool: Pool) -> Iterator[str]:
    said = {rank: links.connected.get((group.key, rank), frozenset()) for rank in group.members}
    algorithms: frozenset[str] = frozenset().union(*said.values())
    lagging = [rank for rank, what in said.items() if what != algorithms]
    if lagging:
        what = " and ".join(sorted(algorithms))
        yield f"communicator {group.id}: rank {lagging[0]} lacks `Connected all {what}`, which others have"
    idle = [rank for rank in group.members if rank not in links.used.get(group.key, frozenset())]
    if not algorithms and idle:
        yield f"communicator {group.id}: rank {idle[0]} has connected no channel"
    missing = [hop for hop in _announced(group, algorithms) if not _is_known(group, numbers, pool, hop)]
    if missing:
        channel, src, dst = missing[0]
        yield f"communicator {group.id}: no line for channel {channel} from rank {src} to rank {dst}"
    if "rings" in algorithms and not _rings_are_listed(group):
        yield f"communicator {group.id}: the lines that list its rings are missing"


def _rings_are_listed(group: Group) -> bool:
    first = group.members.get(0)
    return first is not None and 0 < first[1].notes.ring_total <= len(first[1].notes.rings)


def _announced(group: Group, algorithms: frozenset[str]) -> Iterator[tuple[int, int, int]]:
    """(channel, from, to) of each hop of rings and trees, as far as NCCL lists them."""
    for rank, (_, member) in sorted(group.members.items()):
        if "rings" in algorithms:
            for channel, order in sorted(member.notes.rings.items()):
                whole = len(order) == group.size
                for src, dst in zip(order, (*order[1:], *(order[:1] if whole else ())), strict=False):
                    yield channel, src, dst
        if "trees" in algorithms:
            for channel, parent in sorted(member.notes.parents.items()):
                if parent >= 0:
                    yield channel, rank, parent
                    yield channel, parent, rank


def _is_known(group: Group, numbers: Numbering, pool: Pool, hop: tuple[int, int, int]) -> bool:
    """By a line of P2P or SHM, or by both ends' of the network."""
    channel, src, dst = hop
    a, b = numbers.number.get((group.key, src)), numbers.number.get((group.key, dst))
    if a is None or b is None:
        return False
    sent, received, local = pool.get((a, b, 0), (0, 0, 0))
    return bool(((sent & received) | local) >> channel & 1)


def _too_few(spanning: Iterable[Group], numbers: Numbering, pool: Pool) -> Iterator[str]:
    """Send and receive take a known number of channels to each peer: fewer were said than there are."""
    expected: dict[tuple[int, int], int] = {}
    messages = {(src, dst) for src, dst, connection in pool if connection == 1}
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
        sent, received, _ = pool[src, dst, 1]
        known = (sent & received).bit_count()
        if sent and known < count:
            yield f"{known} of {count} channels of send and receive are known from rank {src} to rank {dst}"
            return
