"""NCCL's own sentences, 2.18 to 2.30, as values: one message in, what it says out.

The forms are those of NCCL's sources (src/init.cc, src/debug.cc, src/graph/rings.cc and, in src/transport,
net.cc, p2p.cc, shm.cc, coll_net.cc, generic.cc, net_ib.cc at the tags v2.18.1-1 to v2.30.7-1,
https://github.com/NVIDIA/nccl).
"""

from __future__ import annotations

import re

from cluster.nccl.events import (
    Channel,
    Connected,
    Cut,
    Device,
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
    Via,
    Way,
)

EDGE = re.compile(
    r"Channel (\d{1,4})(?:/(\d))? : (\d{1,7})\[([0-9a-f]{1,16})\] -> (\d{1,7})\[([0-9a-f]{1,16})\] "
)
NET = re.compile(
    r"\[(send|receive)\] via NET/([\w .+:-]{1,64})/(-?\d{1,5})(?:\((\d{1,7})\))?"
    r"(/GDRDMA(?:\(PCI\))?)?(/Shared)?"
)
LOCAL = re.compile(
    r"via (P2P)/(direct pointer|CUMEM|MNNVL|IPC)(?:/read)?(?:/CE)?"
    r"|via (P2P/indirect)/\d{1,7}\[[0-9a-f]{1,16}\](?:/read)?"
    r"|via (SHM)/(?:direct|CE)(?:/(?:direct|CE))?"
)
COLLNET = re.compile(
    r"CollNet (\d{1,4})/(\d) : (\d{1,7}) \[(send|receive)\] via "
    r"COLLNET/([\w .+:-]{1,64})/(-?\d{1,5})(/GDRDMA(?:\(PCI\))?)?"
)
RING = re.compile(r"Channel (\d{1,4})/(\d{2,4}) :((?: +\d{1,7})+)( *\.\.\.| +)?")
TREE = re.compile(r"\[(\d{1,4})\] -?\d+/-?\d+/-?\d+->(\d{1,7})->(-?\d{1,7})(?= |$)")
INIT = re.compile(
    r"(?:\[Rank \d+\] )?(?:\w{1,64} )?comm (0x[0-9a-f]+) rank (\d{1,7}) nranks (\d{1,7}) cudaDev (-?\d{1,4})"
    r"(?: nvmlDev (-?\d{1,4}))? busId ([0-9a-f]{1,16})"
    r"(?: parent (0x[0-9a-f]+|\(nil\)))?(?: (?:splitCount|childCount) (\d+))?(?: color (-?\d+) key -?\d+)?"
    r"(?: commId (0x[0-9a-f]+))? ?- Init (START|COMPLETE)"
)
SPAN = re.compile(r"comm (0x[0-9a-f]+) rank \d{1,7} nRanks \d{1,7} nNodes (\d{1,7}) ")
CONNECTED = re.compile(
    r"Connected (?:all )?(rings|trees|binomial trees|NVLS tree|[Cc]oll[Nn]et [Cc]hains?|collnet \+ chain)"
)
PER_PEER = re.compile(r"\d+ coll channels, .*?(\d{1,5}) p2p channels, (\d{1,5}) p2p channels per peer")
NETWORK = re.compile(r"Using network ([\w .+:-]{1,64})")
IB_LIST = re.compile(r"NET/IB : Using(.*?)(?:\[RO\])?; OOB ")
IB_DEVICE = re.compile(
    r"\[(\d+)\]=\{([^}]{1,500})\}|\[(\d+)\]([\w.-]{1,64}):(\d+)(?::\d*){0,2}/(IB|RoCE|UNSPECIFIED)"
)
IB_MERGED = re.compile(r"\[\d+\] ([\w.-]{1,64}):(\d+)/(IB|RoCE|UNSPECIFIED)")
IB_RATE = re.compile(
    r"NET/IB: \[\d+\] ([\w.-]{1,64}):[\w.-]*:(\d+)/(IB|RoCE|UNSPECIFIED) .*?speed=(\d{1,9})\b"
)
IB_VIRTUAL = re.compile(
    r"NET/IB : Made virtual device \[(\d+)\] name=([\w.+-]{1,200}) speed=(\d{1,9}) ndevs=(\d+)"
)
SOCKET_LIST = re.compile(r"NET/Socket : Using(.*)")
SOCKET_DEVICE = re.compile(r"\[(\d+)\]([\w.@-]{1,64}):")
VARIABLE = re.compile(r"(NCCL_\w{1,64}) set (?:by environment )?to (.*)")
BOOTSTRAP = re.compile(r"Bootstrap ?: Using (?:\[\d+\])?([\w.@-]{1,64}):")
VERSION = re.compile(r"NCCL version (\d+\.\d+\.\d+)")
CHANNEL_WORDS = ("Channel ", "CollNet ")


def understood(message: str, whole: bool = True) -> Event | None:
    """What a message says; None for one that says nothing here. One that is not `whole` may lack its end."""
    if message.startswith(CHANNEL_WORDS) or is_stump(message):
        return _channel(message, whole)
    for parse in _PARSERS.get(message[:4], ()):
        if event := parse(message):
            return event
    return _per_peer(message) if message[:1].isdigit() else None


def is_stump(message: str) -> bool:
    """Whether this may be the beginning of a line of a channel, and no more."""
    return len(message) < len(CHANNEL_WORDS[0]) and any(word.startswith(message) for word in CHANNEL_WORDS)


def _channel(message: str, whole: bool) -> Channel | Ring | Cut | None:
    edge = EDGE.match(message)
    if edge is None:
        return _ring(message) or _collnet(message, whole) or Cut()
    number, conn, src, src_id, dst, dst_id = edge.groups()
    rest = message[edge.end() :]
    found = _via(rest)
    if found is None:
        if rest.startswith("via "):
            return None  # without [send] or [receive] it never leaves the node
        return Cut(int(number), int(conn or 0), int(src), int(dst))
    ends = (int(src), int(src_id, 16), int(dst), int(dst_id, 16))
    return _if_sure(Channel(int(number), int(conn or 0), *ends, *found), whole)


def _ring(message: str) -> Ring | None:
    found = RING.fullmatch(message)
    if found is None:
        return None
    order = tuple(int(rank) for rank in found[3].split())
    is_cut = "." in (found[4] or "")  # then the last number may lack digits
    return Ring(int(found[1]), int(found[2]), order[:-1] if is_cut else order)


def _collnet(message: str, whole: bool) -> Channel | Cut | None:
    """Its peer is the fabric: source and destination are the rank itself."""
    found = COLLNET.fullmatch(message)
    if found is None:
        return None
    number, connection, rank, way, name, device, gdr = found.groups()
    via = Via(f"COLLNET/{name}", int(device), gdrdma=bool(gdr))
    channel = Channel(int(number), int(connection), int(rank), -1, int(rank), -1, _way(way), via)
    return _if_sure(channel, whole)


def _if_sure(channel: Channel, whole: bool) -> Channel | Cut:
    """At a file's end `NET/IB/0` may have been `NET/IB/0/GDRDMA`; a socket stays one whatever followed."""
    if whole or channel.via.gdrdma or channel.via.quality in ("socket", "nvlink", ""):
        return channel
    return Cut(channel.number, channel.connection, channel.src, channel.dst)


def _via(text: str) -> tuple[Way, Via] | None:
    if net := NET.fullmatch(text):
        way, name, device, proxy, gdr, shared = net.groups()
        via = Via(f"NET/{name}", int(device), None if proxy is None else int(proxy), bool(gdr), bool(shared))
        return _way(way), via
    if local := LOCAL.fullmatch(text):
        p2p, kind, indirect, shm = local.groups()
        return "", Via(f"{p2p}/{kind}" if p2p else indirect or shm)
    return None


def _way(text: str) -> Way:
    return "send" if text == "send" else "receive"


def _init(message: str) -> Event | None:
    found = INIT.fullmatch(message)
    if found is None:
        return None
    pointer, rank, size, device, nvml, bus_id, parent, count, color, comm_id, what = found.groups()
    group = (comm_id,) if comm_id else (parent, count or "", color or "") if parent else ()
    index = None if nvml is None else int(nvml)
    return Init(pointer, int(rank), int(size), int(device), index, bus_id, group, what == "COMPLETE")


def _span(message: str) -> Event | None:
    found = SPAN.match(message)
    return Span(found[1], int(found[2])) if found else None


def _trees(message: str) -> Event | None:
    if not message.startswith("Trees ["):
        return None
    parents = tuple((int(channel), int(rank), int(up)) for channel, rank, up in TREE.findall(message))
    longest = 960  # NCCL cuts a line at 1023 bytes with its prefix: the last number may lack digits
    return Trees(parents[:-1] if len(message) > longest else parents)


def _connected(message: str) -> Event | None:
    found = CONNECTED.match(message)
    return Connected(found[1]) if found else None


def _per_peer(message: str) -> Event | None:
    found = PER_PEER.match(message)
    return PerPeer(min(int(found[1]), int(found[2]))) if found else None


def _network(message: str) -> Event | None:
    found = NETWORK.fullmatch(message)
    return Network(found[1].strip()) if found else None


def _devices(message: str) -> Event | None:
    if found := IB_LIST.match(message):
        return Devices("IB", tuple(_ib_devices(found[1])))
    if found := SOCKET_LIST.match(message):
        named = SOCKET_DEVICE.findall(found[1])
        return Devices("Socket", tuple((int(index), Device(name)) for index, name in named))
    if found := IB_RATE.match(message):
        name, port, link, rate = found.groups()
        return Rate(Device(name, int(port), link, int(rate) / 1000))
    if found := IB_VIRTUAL.match(message):
        return Devices("IB", ((int(found[1]), Device(found[2], rate=int(found[3]) / 1000)),))
    return None


def _ib_devices(text: str) -> list[tuple[int, Device]]:
    devices = []
    for merged, parts, index, name, port, link in IB_DEVICE.findall(text):
        if not merged:
            devices.append((int(index), Device(name, int(port), link)))
        elif of := IB_MERGED.findall(parts):
            devices.append((int(merged), Device("+".join(part[0] for part in of), int(of[0][1]), of[0][2])))
    return devices


def _variable(message: str) -> Event | None:
    if found := VERSION.match(message):
        return Version(found[1])
    found = VARIABLE.fullmatch(message)
    if found is None:
        return None
    value = found[2].strip()
    number = value.removesuffix(".")  # numbers are printed with a full stop behind them
    return Variable(found[1], number if re.fullmatch(r"-?\d+", number) else value)


def _bootstrap(message: str) -> Event | None:
    found = BOOTSTRAP.match(message)
    return Interface(found[1]) if found else None


_PARSERS = {
    "nccl": (_init,),
    "comm": (_span, _init),
    "[Ran": (_init,),
    "Tree": (_trees,),
    "Conn": (_connected,),
    "Usin": (_network,),
    "NET/": (_devices,),
    "NCCL": (_variable,),
    "Boot": (_bootstrap,),
}
