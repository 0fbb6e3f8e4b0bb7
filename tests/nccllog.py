"""What NCCL would have written, version by version, and the truth about it.

The format strings are those of NCCL's sources at the tags of `VERSIONS` (github.com/NVIDIA/nccl: src/init.cc,
src/debug.cc, src/bootstrap.cc, src/graph/rings.cc, src/transport/{net,net_ib,net_socket,p2p,shm,generic}.cc);
the order of the lines is that of recorded runs of 2.28.9.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby, pairwise
from typing import Literal

VERSIONS = (
    *("2.18.1", "2.18.5", "2.19.3", "2.20.5", "2.21.5", "2.22.3", "2.23.4", "2.24.3", "2.25.1", "2.26.5"),
    *("2.27.7", "2.28.9", "2.29.2", "2.29.7", "2.30.7"),
)
NetworkName = Literal["IB", "RoCE", "Socket", "HPC-X", "OFI"]
NETWORKS: tuple[NetworkName, ...] = ("IB", "RoCE", "Socket", "HPC-X", "OFI")
# As NCCL calls them in `Using network` and `via NET/...`.
NAMES = {"IB": "IB", "RoCE": "IB", "Socket": "Socket", "HPC-X": "IBext_v8", "OFI": "AWS Libfabric"}
GroupKind = Literal["world", "tensor", "pipeline", "messages"]


@dataclass(frozen=True)
class Run:
    """A run of `nodes` times `gpus` processes, one a GPU; rank = node * gpus + local rank.

    without_gdr: the (src, dst, channel) between nodes that lack GPUDirect RDMA, in ranks of the world;
    received_without_gdr: those that lack it at the receiver's end alone.
    only_in: the one kind of communicator in which they do; None for all.
    connects_late: all communicators begin before the first of them connects its channels, as far as `lazy`
    and none is for send and receive alone: one of the same ranks for collectives cannot be told from it then.
    groups: which communicators there are; `messages` are for send and receive only, between pipeline stages.
    stopped: ranks that say Init START and nothing after it. failed: a rank whose init ends with an error.
    """

    version: str = "2.28.9"
    nodes: int = 2
    gpus: int = 2
    network: NetworkName = "IB"
    gdr: bool = True
    without_gdr: frozenset[tuple[int, int, int]] = frozenset()
    received_without_gdr: frozenset[tuple[int, int, int]] = frozenset()
    only_in: GroupKind | None = None
    channels: int = 2
    groups: tuple[GroupKind, ...] = ("world",)
    pxn: bool = False
    shm: bool = False
    over_pci: bool = False
    runtime_connect: bool = True
    connects_late: bool = False
    by_split: bool = False
    one_host: bool = False
    merged_ports: bool = False
    stamps: bool = False
    stopped: frozenset[int] = frozenset()
    failed: int | None = None

    @property
    def release(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split("."))

    @property
    def lazy(self) -> bool:
        """Whether channels are made at the first collective: NCCL_RUNTIME_CONNECT, since 2.22."""
        return self.runtime_connect and self.release >= (2, 22)

    @property
    def ranks(self) -> range:
        return range(self.nodes * self.gpus)

    def node(self, rank: int) -> int:
        return rank // self.gpus

    def local(self, rank: int) -> int:
        return rank % self.gpus

    @property
    def virtual(self) -> bool:
        """Whether ports are merged into devices with a line of their own: since 2.24."""
        return self.merged_ports and self.release >= (2, 24) and self.network in ("IB", "RoCE")

    def hca(self, index: int) -> str:
        return f"rocep{index + 1}s0" if self.network == "RoCE" else f"mlx5_{index}"

    @cached_property
    def communicators(self) -> tuple[Communicator, ...]:
        return tuple(group for kind in self.groups for group in _groups(self, kind))

    @cached_property
    def hops(self) -> tuple[Hop, ...]:
        return tuple(hop for group in self.communicators for hop in (*group.rings, *group.trees))

    @cached_property
    def between_nodes(self) -> tuple[Hop, ...]:
        return tuple(hop for hop in self.hops if self.node(hop.src) != self.node(hop.dst))


@dataclass(frozen=True)
class Hop:
    """One connection of one channel; src, dst and proxy are ranks of the world, device is the sender's.

    sent_gdrdma, received_gdrdma: each end decides for itself (net.cc: sendSetup, recvSetup).
    """

    src: int
    dst: int
    channel: int
    transport: str
    device: int = 0
    sent_gdrdma: bool = False
    received_gdrdma: bool = False
    proxy: int | None = None
    shared: bool = False

    @property
    def gdrdma(self) -> bool:
        return self.sent_gdrdma and self.received_gdrdma

    @property
    def crosses(self) -> bool:
        return self.transport.startswith("NET/")


@dataclass(frozen=True)
class Communicator:
    """Ranks of the world, in the order of their ranks in it.

    orders: the ring of each channel. above: the tree of each channel, {rank: the one above it}.
    """

    name: str
    members: tuple[int, ...]
    orders: tuple[tuple[int, ...], ...]
    above: tuple[Mapping[int, int], ...] = field(hash=False)
    rings: tuple[Hop, ...] = ()
    trees: tuple[Hop, ...] = ()
    says_rings: bool = True

    @property
    def kind(self) -> str:
        return self.name.rstrip("0123456789")

    def rank(self, of_world: int) -> int:
        return self._ranks[of_world]

    @cached_property
    def _ranks(self) -> Mapping[int, int]:
        return {member: rank for rank, member in enumerate(self.members)}

    @cached_property
    def below(self) -> tuple[Mapping[int, list[int]], ...]:
        found: tuple[dict[int, list[int]], ...] = tuple({} for _ in self.above)
        for tree, parents in zip(found, self.above, strict=True):
            for child, parent in parents.items():
                tree.setdefault(parent, []).append(child)
        return found

    def hops_of(self, rank: int, rings: bool) -> Sequence[Hop]:
        """Those that a rank has an end of: first what it receives, then what it sends."""
        return (self._rings_of if rings else self._trees_of).get(rank, ())

    @cached_property
    def _rings_of(self) -> Mapping[int, Sequence[Hop]]:
        return _by_rank(self.rings)

    @cached_property
    def _trees_of(self) -> Mapping[int, Sequence[Hop]]:
        return _by_rank(self.trees)


@dataclass(frozen=True)
class Line:
    """`text` without line end, said while `within` is made. What it proves: `hop`, or that `communicator`'s
    rings are connected."""

    text: str
    hop: Hop | None = None
    communicator: Communicator | None = None
    within: Communicator | None = None


@dataclass(frozen=True)
class Process:
    """What a rank wrote."""

    rank: int
    host: str
    address: str
    pid: int
    lines: tuple[Line, ...] = field(repr=False)


def verdict(run: Run) -> str:
    """What a reader of the whole log has to say."""
    if run.failed is not None:
        return "failed"
    if run.stopped:
        return "incomplete"
    ways = {
        _way(run, direct) for hop in run.between_nodes for direct in (hop.sent_gdrdma, hop.received_gdrdma)
    }
    if len(ways) > 1:
        return "mixed"
    return ways.pop() if ways else "intra-node"


def _way(run: Run, gdrdma: bool) -> str:
    if run.network in ("Socket", "OFI"):
        return {"Socket": "socket", "OFI": "plugin"}[run.network]
    if gdrdma:
        return "gdrdma"
    return "roce" if run.network == "RoCE" else "ib"


# --- who talks to whom ----------------------------------------------------------------------------


def _groups(run: Run, kind: GroupKind) -> Iterator[Communicator]:
    if kind == "world":
        yield _communicator(run, "world", tuple(run.ranks))
    elif kind == "tensor" and run.gpus > 1:
        for node in range(run.nodes):
            yield _communicator(run, f"tensor{node}", tuple(r for r in run.ranks if run.node(r) == node))
    elif kind in ("pipeline", "messages") and run.nodes > 1:
        for local in range(run.gpus):
            stages = tuple(rank for rank in run.ranks if run.local(rank) == local)
            group = _communicator(run, f"{kind}{local}", stages)
            yield group if kind == "pipeline" else _with_messages(run, group)


def _by_rank(hops: Sequence[Hop]) -> Mapping[int, Sequence[Hop]]:
    found: dict[int, list[Hop]] = {}
    for hop in hops:
        found.setdefault(hop.dst, []).append(hop)
    for hop in hops:
        found.setdefault(hop.src, []).append(hop)
    return found


def _communicator(run: Run, name: str, members: tuple[int, ...]) -> Communicator:
    rings, trees = [], []
    orders = tuple(_ring(run, members, channel) for channel in range(run.channels))
    above = tuple(_tree(run, order) for order in orders)
    for channel, (order, parents) in enumerate(zip(orders, above, strict=True)):
        ring = list(pairwise((*order, order[0]))) if len(order) > 1 else []
        rings += [_hop(run, name, members, src, dst, channel) for src, dst in ring]
        both_ways = [pair for child, parent in parents.items() for pair in ((parent, child), (child, parent))]
        # What the ring has connected is connected already.
        trees += [_hop(run, name, members, *pair, channel) for pair in both_ways if pair not in set(ring)]
    return Communicator(name, members, orders, above, tuple(rings), tuple(trees))


def _with_messages(run: Run, group: Communicator) -> Communicator:
    """Each stage sends to the next; where channels are made at need, nothing else is made."""
    messages = tuple(
        _hop(run, group.name, group.members, src, dst, channel, shared=True)
        for src, dst in pairwise(group.members)
        for channel in range(run.channels)
    )
    if run.lazy:
        return replace(group, rings=(), trees=messages, says_rings=False)
    return replace(group, trees=(*group.trees, *messages))


def _ring(run: Run, members: tuple[int, ...], channel: int) -> tuple[int, ...]:
    """Node after node; which GPU of a node stands at its border differs from channel to channel."""
    order: list[int] = []
    for _, mates in groupby(members, run.node):
        own = list(mates)
        turn = channel % len(own)
        order += own[turn:] + own[:turn]
    return tuple(order)


def _tree(run: Run, order: Sequence[int]) -> Mapping[int, int]:
    """{rank: the one above it}: a chain in each node, and a chain of the nodes' first GPUs."""
    nodes = [list(mates) for _, mates in groupby(order, run.node)]
    above = {child: parent for mates in nodes for parent, child in pairwise(mates)}
    return above | {child[0]: parent[0] for parent, child in pairwise(nodes)}


def _hop(
    run: Run, name: str, members: Sequence[int], src: int, dst: int, channel: int, shared: bool = False
) -> Hop:
    if run.node(src) == run.node(dst):
        return Hop(src, dst, channel, _inside(run))
    worse = run.only_in is None or name.rstrip("0123456789") == run.only_in
    able = run.gdr and run.network != "Socket"
    sent = able and not (worse and (src, dst, channel) in run.without_gdr)
    received = sent and not (worse and (src, dst, channel) in run.received_without_gdr)
    others = [r for r in members if run.node(r) == run.node(src) and r != src] if run.pxn else []
    proxy = others[0] if others else None
    device = 0 if run.network == "Socket" else run.local(src if proxy is None else proxy)
    device += 2 * run.gpus if run.virtual else 0
    return Hop(src, dst, channel, f"NET/{NAMES[run.network]}", device, sent, received, proxy, shared)


def _inside(run: Run) -> str:
    if run.shm:
        return "SHM"
    return "P2P/CUMEM" if run.release >= (2, 19) else "P2P/IPC"


# --- what they say --------------------------------------------------------------------------------


def processes(run: Run) -> tuple[Process, ...]:
    """What each rank's process writes, in its order."""
    return tuple(_process(run, rank) for rank in run.ranks)


def _process(run: Run, rank: int) -> Process:
    node = run.node(rank)
    host = "vm" if run.one_host else f"gpu-{node + 1:02d}"
    address = "192.0.2.2" if run.one_host else f"10.0.{node // 200}.{node % 200 + 11}"
    pid = 1000 + rank if run.one_host else 1000 + run.local(rank)
    who = f"{host}:{pid}:{pid} [{run.local(rank)}] "
    lines = []
    for line in _says(run, rank, address):
        for text in line.text.split("\n"):
            bare = not text or text.startswith("NCCL version")
            lines.append(replace(line, text=text if bare else _stamp(run, text) + who + text))
    return Process(rank, host, address, pid, tuple(lines))


def _stamp(run: Run, text: str) -> str:
    """Warnings have the time since 2.26; NCCL_DEBUG_TIMESTAMP_LEVELS gives it to the rest."""
    stamped = run.release >= (2, 26) and (run.stamps or "NCCL WARN" in text)
    return "[2026-11-21 05:20:00] " if stamped else ""


def _says(run: Run, rank: int, address: str) -> Iterator[Line]:
    if rank == 0 and run.release < (2, 22):
        yield Line(f"NCCL version {run.version}+cuda12.2")  # printed, not logged
    for text in _beginning(run, address):
        yield _info(text)
    own = [(number, group) for number, group in enumerate(run.communicators) if rank in group.members]
    late = run.connects_late and run.lazy and "messages" not in run.groups
    for number, group in own:
        yield from (replace(line, within=group) for line in _of_communicator(run, rank, group, number))
        if rank in run.stopped or rank == run.failed:
            return
        if run.lazy and not late:
            yield from (replace(line, within=group) for line in _connections(run, rank, group))
    for _, group in own if late else ():
        yield from (replace(line, within=group) for line in _connections(run, rank, group))


def _beginning(run: Run, address: str) -> Iterator[str]:
    release = run.release
    colon = "Bootstrap:" if release >= (2, 24) else "Bootstrap :"
    yield f"{colon} Using eth0:{address}<0>"
    yield "cudaDriverVersion 12080"
    if release >= (2, 22):
        yield f"NCCL version {run.version}+cuda12.8"
    yield from _network(run, address)
    if release >= (2, 27):
        yield f"Initialized NET plugin {NAMES[run.network]}"


def _network(run: Run, address: str) -> Iterator[str]:
    oob = f"[RO]; OOB eth0:{address}<0>"
    if run.network in ("IB", "RoCE"):
        yield _without_plugin(run.release)
        for index, name in enumerate(_physical(run)) if run.release >= (2, 24) else ():
            yield f"NET/IB : Made virtual device [{index}] name={name} speed=400000 ndevs=1"
        yield f"NET/IB : Using{_devices(run)} {oob}"
        able = "Enabled" if run.gdr else "Disabled"
        for index in range(run.gpus) if run.virtual else ():
            ports = "+".join(_ports(run, index))
            yield f"NET/IB : Made virtual device [{2 * run.gpus + index}] name={ports} speed=400000 ndevs=2"
        for index in range(run.gpus):
            yield f"NET/IB : GPU Direct RDMA {able} for HCA {index} '{run.hca(index)}'"
    elif run.network == "HPC-X":
        listed = "".join(f" [{index}]{run.hca(index)}:1/IB/SHARP" for index in range(run.gpus))
        yield "Plugin Path : /opt/hpcx/nccl_rdma_sharp_plugin/lib/libnccl-net.so"
        yield "P2P plugin v8 IBext_v8"
        yield f"NET/IB : Using{listed} {oob}"
    elif run.network == "OFI":
        yield "NET/OFI Initializing aws-ofi-nccl 1.13.2-aws"
        yield f"NET/OFI Selected Provider is efa (found {run.gpus} nics)"
    else:
        yield _without_plugin(run.release)
        yield "NET/IB : No device found."
        if run.release >= (2, 24):
            yield f"NET/IB : Using {oob}"
        if run.release >= (2, 27):
            yield "Failed to initialize NET plugin IB"
        yield f"NET/Socket : Using [0]eth0:{address}<0>"


def _without_plugin(release: tuple[int, ...]) -> str:
    if release < (2, 19):
        return "NET/Plugin : No plugin found, using internal implementation"
    if release < (2, 21):
        missing = "libnccl-net.so: cannot open shared object file: No such file or directory"
        return (
            f"NET/Plugin : dlerror={missing} No plugin found (libnccl-net.so), using internal implementation"
        )
    if release < (2, 22):
        return "NET/Plugin: No plugin found (libnccl-net.so)"
    internal = ". Using internal network plugin." if release < (2, 28) else ""
    return f"NET/Plugin: Could not find: libnccl-net.so{internal}"


def _devices(run: Run) -> str:
    link = "RoCE" if run.network == "RoCE" else "IB"
    merges = run.merged_ports and (2, 20) <= run.release < (2, 24)
    if not merges:
        return "".join(f" [{index}]{name}:1/{link}" for index, name in enumerate(_physical(run)))
    return "".join(
        f" [{index}]={{[{2 * index}] {run.hca(index)}:1/{link}, [{2 * index + 1}] {run.hca(index)}:2/{link}}}"
        for index in range(run.gpus)
    )


def _physical(run: Run) -> tuple[str, ...]:
    if run.virtual:
        return tuple(port for index in range(run.gpus) for port in _ports(run, index))
    return tuple(run.hca(index) for index in range(run.gpus))


def _ports(run: Run, index: int) -> tuple[str, str]:
    """The two functions of one HCA with two ports."""
    return (
        (f"{run.hca(index)}f0", f"{run.hca(index)}f1")
        if run.network == "RoCE"
        else (f"mlx5_{2 * index}", f"mlx5_{2 * index + 1}")
    )


def _of_communicator(run: Run, rank: int, group: Communicator, number: int) -> Iterator[Line]:
    name, title = NAMES[run.network], _title(run, rank, group, number)
    if run.release >= (2, 27):
        yield _info(f"Assigned NET plugin {name} to comm")
    if (2, 19) <= run.release < (2, 22):
        yield _info("Using non-device net plugin version 0")
    yield _info(f"Using network {name}")
    start = "[Rank {}] {}" if run.release >= (2, 29) and "parent" not in title else "{1}"
    if run.release >= (2, 18, 5):
        dash = "-" if "parent" in title and run.release >= (2, 23) else " -"
        yield _info(start.format(group.rank(rank), title) + f"{dash} Init START")
    if run.one_host and number == 0:
        yield _info(f"NCCL_HOSTID set by environment to gpu-{run.node(rank) + 1:02d}")
    if rank in run.stopped:
        return
    if rank == run.failed:
        yield _failure(run)
        return
    if run.release >= (2, 20):
        nodes = {run.node(member) for member in group.members}
        mates = [member for member in group.members if run.node(member) == run.node(rank)]
        yield _info(
            f"comm {_pointer(rank, number)} rank {group.rank(rank)} nRanks {len(group.members)} "
            f"nNodes {len(nodes)} localRanks {len(mates)} localRank {mates.index(rank)} MNNVL 0"
        )
    yield from _graph(run, rank, group)
    if not run.lazy:
        yield from _connections(run, rank, group)
    collnet = f"{run.channels} collnet channels, " if run.release >= (2, 20) else ""
    yield _info(
        f"{run.channels} coll channels, {collnet}0 nvls channels, {run.channels} p2p channels, "
        f"{run.channels} p2p channels per peer"
    )
    yield _info(f"{title} - Init COMPLETE")


def _title(run: Run, rank: int, group: Communicator, number: int) -> str:
    split = run.by_split and group.name != "world"
    function = "" if run.release < (2, 21) else "ncclCommSplit " if split else "ncclCommInitRank "
    device = f"nvmlDev {run.local(rank)} " if run.release >= (2, 18, 5) else ""
    own = f"commId 0x{0x5AFE0000 + run.communicators.index(group):x}"
    if split and run.release >= (2, 21):
        own = _parentage(run, rank, group, own)
    return (
        f"{function}comm {_pointer(rank, number)} rank {group.rank(rank)} nranks {len(group.members)} "
        f"cudaDev {run.local(rank)} {device}busId {_bus_id(run, rank)} {own}"
    )


def _parentage(run: Run, rank: int, group: Communicator, identity: str) -> str:
    """What ncclCommSplit says, one call a kind of group; since 2.23 without the new one's identity."""
    call = list(dict.fromkeys(other.kind for other in run.communicators)).index(group.kind)
    children = {(2, 23): "", (2, 24): f"splitCount {call} ", (2, 29): f"childCount {call} "}
    count = next((text for since, text in reversed(children.items()) if run.release >= since), "")
    color = group.name.removeprefix(group.kind)
    said = f"parent {_pointer(rank, 0)} {count}color {color} key {rank}"
    return said if run.release >= (2, 23) else f"{said} {identity}"


def _graph(run: Run, rank: int, group: Communicator) -> Iterator[Line]:
    for channel, order in enumerate(group.orders) if group.rank(rank) == 0 else ():
        listed = _listed(run, [group.rank(member) for member in order])
        yield _info(f"Channel {channel:02d}/{run.channels:02d} :{listed}")
    yield _info("Trees" + "".join(f" [{c}] {_place(group, rank, c)}" for c in range(run.channels)))
    yield _info("P2P Chunksize set to 131072")


def _listed(run: Run, ranks: Sequence[int]) -> str:
    """The ring as far as NCCL prints it."""
    if run.release < (2, 23):
        return " " + "".join(f" {rank:3d}" for rank in ranks[:20])
    text = "".join(f" {rank:{len(str(len(ranks) - 1))}d}" for rank in ranks)
    return text if len(text) <= 112 else text[:109] + "..."  # 127 with what stands before it


def _place(group: Communicator, rank: int, channel: int) -> str:
    """`1/2/-1->0->-1`: up to three ranks below in the tree, this one, the one above."""
    below = [group.rank(child) for child in group.below[channel].get(rank, ())]
    above = group.above[channel].get(rank)
    own = f"->{group.rank(rank)}->{-1 if above is None else group.rank(above)}"
    return "/".join(map(str, (*below, -1, -1, -1)[:3])) + own


def _connections(run: Run, rank: int, group: Communicator) -> Iterator[Line]:
    for rings, said in ((True, _rings(run)), (False, "Connected all trees")):
        for hop in group.hops_of(rank, rings):
            if hop.crosses or hop.src == rank:
                yield Line("NCCL INFO " + _via(run, group, hop, sends=hop.src == rank), hop)
        if group.says_rings and len(group.members) > 1:
            yield Line(f"NCCL INFO {said}", None, group if rings else None)


def _rings(run: Run) -> str:
    if run.release < (2, 24):
        return "Connected all rings"
    return f"Connected all rings, use ring PXN {run.pxn:d} GDR {run.gdr:d}"


def _via(run: Run, group: Communicator, hop: Hop, sends: bool) -> str:
    ends = f"{_end(run, group, hop.src, hop)} -> {_end(run, group, hop.dst, hop)}"
    if hop.transport == "SHM":
        direct = "direct" if run.release >= (2, 30) else "direct/direct"
        return f"Channel {hop.channel:02d} : {ends} via SHM/{direct}"
    where = f"Channel {hop.channel:02d}/{hop.shared:d} : {ends}"
    if not hop.crosses:
        return f"{where} via {hop.transport}"
    proxy = "" if hop.proxy is None or not sends else f"({group.rank(hop.proxy)})"
    direct = hop.sent_gdrdma if sends else hop.received_gdrdma
    gdrdma = "/GDRDMA" * direct + "(PCI)" * (direct and run.over_pci and run.release >= (2, 26))
    # The receiver's device has the same number as the sender's, which is of the same rail.
    device = f"{hop.device}{proxy}{gdrdma}{'/Shared' * hop.shared}"
    return f"{where} [{'send' if sends else 'receive'}] via {hop.transport}/{device}"


def _end(run: Run, group: Communicator, rank: int, hop: Hop) -> str:
    bus = run.release < (2, 18, 5) and hop.transport != "P2P/CUMEM"
    return f"{group.rank(rank)}[{_bus_id(run, rank) if bus else run.local(rank)}]"


def _bus_id(run: Run, rank: int) -> str:
    return f"{0x1B000 + 0x20000 * run.local(rank):x}"


def _pointer(rank: int, number: int) -> str:
    return f"0x55d0{rank:04x}{number:04x}"


def _failure(run: Run) -> Line:
    """The blank line before a warning is its own."""
    said = "Call to ibv_modify_qp failed with error Connection timed out errno 110"
    if run.release >= (2, 27):
        said = (
            "Call to ibv_modify_qp failed with 110 Connection timed out, on dev mlx5_0:1, curr state INIT, "
            "next state RTR, local GID index 3, local GID ::ffff:10.0.0.11, remote GID ::ffff:10.0.0.12"
        )
    place = "misc/ibvwrap.cc:309" + (" (wrap_ibv_modify_qp)" if run.release >= (2, 30) else "")
    return Line(f"\n{place} NCCL WARN {said}")


def _info(text: str) -> Line:
    return Line(f"NCCL INFO {text}")
