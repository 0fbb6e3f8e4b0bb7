"""What an NCCL log says, as values: ranks, communicators, edges, the verdict and its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal[
    "gdrdma",
    "ib",
    "roce",
    "plugin",
    "socket",
    "mixed",
    "intra-node",
    "incomplete",
    "failed",
    "unknown",
]
LinkLayer = Literal["InfiniBand", "RoCE"]
Process = tuple[str, int]
"""(hostname, process id), as NCCL's prefix `host:pid:tid` has them."""


@dataclass(frozen=True, slots=True)
class Rank:
    """One GPU of one process.

    `number` is the rank in the largest communicator, where all processes of the log are in that one;
    else ranks are counted over the nodes in order, and on a node over its devices. `node` is empty for a
    rank that never spoke. `device` is CUDA's index in its process, `bus_id` as NCCL prints it.
    """

    number: int
    node: str
    pid: int | None
    device: int | None
    bus_id: str | None


@dataclass(frozen=True, slots=True)
class Communicator:
    """`id` is NCCL's commId, or the pointer where an old version says none; `ranks` are Report's numbers,
    in the order of the communicator's own; -1 for one that never spoke. `nodes` is how many it spans,
    None where no line says so."""

    id: str
    size: int
    ranks: tuple[int, ...]
    nodes: int | None
    complete: bool


@dataclass(frozen=True, slots=True)
class Edge:
    """What carries data from rank `src` to rank `dst`, in one or more channels of any communicator.

    `transport` in NCCL's words (`P2P/CUMEM`, `SHM`, `NET/IB`, `NET/AWS Libfabric`, `COLLNET`); `device` is
    the HCA or interface, or NCCL's index of it where no line names it, None for what has none. `gdrdma`
    is true where all ends that spoke said so. `proxy` is the local rank's rank that sends in its place
    (PXN); `shared` marks connections of ncclSend and ncclRecv.
    """

    src: int
    dst: int
    transport: str
    device: str | None
    gdrdma: bool
    channels: tuple[int, ...]
    proxy: int | None = None
    shared: bool = False


@dataclass(frozen=True, slots=True)
class NodePair:
    """Two nodes, in order, with all that carries data between them in either direction."""

    a: str
    b: str
    transports: tuple[str, ...]
    hcas: tuple[str, ...]
    gdrdma: bool


@dataclass(frozen=True, slots=True)
class Cause:
    """A likely reason for a verdict worse than `gdrdma`: `id` is stable, `evidence` a line or a count."""

    id: str
    evidence: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Hca:
    """An HCA that NCCL listed: `mlx5_0`, port 1. `rate` is in Gbit/s, None where no line says it."""

    name: str
    port: int
    link_layer: LinkLayer | None
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A rank of a communicator that began its initialisation and did not finish, or never spoke.

    `rank` is the communicator's own number; `node` and `pid` are unknown for one that never spoke.
    """

    communicator: str
    rank: int
    node: str
    pid: int | None
    started: bool


@dataclass(frozen=True, slots=True)
class Report:
    """All that the logs say. `link_layer` is that of the HCAs used between nodes, None where unknown.

    `network` is NCCL's own name of the network (`IB`, `IBext_v8`, `Socket`, `AWS Libfabric`), joined by
    ", " where processes differ. `hcas` and `bootstrap` (the interface) are per node, `environment` per
    process what it said was set by environment.
    """

    verdict: Verdict
    reason: str
    link_layer: LinkLayer | None
    network: str | None
    nccl_versions: tuple[str, ...]
    ranks: tuple[Rank, ...]
    nodes: tuple[str, ...]
    communicators: tuple[Communicator, ...]
    edges: tuple[Edge, ...]
    node_pairs: tuple[NodePair, ...]
    problems: tuple[Cause, ...]
    unfinished: tuple[Unfinished, ...]
    environment: Mapping[Process, Mapping[str, str]]
    hcas: Mapping[str, tuple[Hca, ...]]
    bootstrap: Mapping[str, str]
    warnings: tuple[str, ...] = ()
