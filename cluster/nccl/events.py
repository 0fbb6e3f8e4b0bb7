"""What one of NCCL's sentences says, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Way = Literal["send", "receive", ""]
Quality = Literal["gdrdma", "rdma", "plugin", "socket", "nvlink", ""]


@dataclass(frozen=True, slots=True)
class Via:
    """How a channel goes: `NET/IB`, device 3, rank 0 sending for this one (PXN), GPUDirect RDMA, shared."""

    transport: str
    device: int | None = None
    proxy: int | None = None
    gdrdma: bool = False
    shared: bool = False

    @property
    def is_network(self) -> bool:
        return self.transport.startswith(("NET/", "COLLNET"))

    @property
    def quality(self) -> Quality:
        """What it is worth between nodes; "" for what never leaves a node."""
        if self.transport.startswith(("NET/IB", "COLLNET")):
            return "gdrdma" if self.gdrdma else "rdma"
        if self.transport == "NET/Socket":
            return "socket"
        if self.transport == "P2P/MNNVL":
            return "nvlink"
        return "plugin" if self.is_network else ""


@dataclass(frozen=True, slots=True)
class Channel:
    """One connection of one channel. `src_id` and `dst_id` are the GPUs' NVML indices, in 2.18.1 bus ids."""

    number: int
    connection: int
    src: int
    src_id: int
    dst: int
    dst_id: int
    way: Way
    via: Via


@dataclass(frozen=True, slots=True)
class Cut:
    """A line of a channel that cannot be read to its end; what is left of it."""

    number: int | None = None
    connection: int | None = None
    src: int | None = None
    dst: int | None = None


@dataclass(frozen=True, slots=True)
class Init:
    """Begin or end of a communicator's initialisation. `group` names it in all processes: its commId, or for
    a split the parent's pointer, the split's count and colour."""

    pointer: str
    rank: int
    size: int
    device: int
    nvml: int | None
    bus_id: str
    group: tuple[str, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class Span:
    """Over how many nodes a communicator goes, how many of its ranks are on this one."""

    pointer: str
    nodes: int


@dataclass(frozen=True, slots=True)
class Ring:
    """The ranks of one ring in order, as rank 0 lists them; long ones are cut (`total` rings in all)."""

    channel: int
    total: int
    order: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Trees:
    """(channel, this rank, its parent or -1) of each tree."""

    parents: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Connected:
    """All connections of one algorithm are made: `rings`, `trees`, `NVLS tree`..."""

    what: str


@dataclass(frozen=True, slots=True)
class PerPeer:
    """How many channels ncclSend and ncclRecv take to each peer."""

    channels: int


@dataclass(frozen=True, slots=True)
class Network:
    name: str


@dataclass(frozen=True, slots=True)
class Device:
    """A network device: `mlx5_0` or `eth0`; several merged ones are `mlx5_0+mlx5_1`. `link` is IB or RoCE."""

    name: str
    port: int = 1
    link: str = ""
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Devices:
    """The network devices that a process found, by NCCL's index; `network` is `IB` or `Socket`."""

    network: str
    by_index: tuple[tuple[int, Device], ...]


@dataclass(frozen=True, slots=True)
class Rate:
    """An HCA with its rate, in Gbit/s. Its index is the one before NCCL sorts them, and says nothing."""

    device: Device


@dataclass(frozen=True, slots=True)
class Variable:
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Interface:
    """The one that the bootstrap goes over: TCP by design."""

    name: str


@dataclass(frozen=True, slots=True)
class Version:
    text: str


Event = (
    Channel
    | Cut
    | Init
    | Span
    | Ring
    | Trees
    | Connected
    | PerPeer
    | Network
    | Devices
    | Rate
    | Variable
    | Interface
    | Version
)
