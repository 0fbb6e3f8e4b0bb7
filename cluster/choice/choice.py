"""What is chosen for a node, and why: the interface, the HCA ports, the variables that follow. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

INFINIBAND, ETHERNET = "InfiniBand", "Ethernet"
# The network of each link layer, by the names that NCCL gives them.
NETWORKS = {INFINIBAND: "InfiniBand", ETHERNET: "RoCE"}

# Why a port was taken or not, for programs.
Code = Literal[
    "taken",  # it carries the traffic
    "set",  # the user named the HCAs, this one or others
    "off",  # the user turned HCAs off
    "unneeded",  # one node, or no GPUs: nothing goes over HCAs
    "nothing",  # the nodes have no link layer in common: NCCL is left to choose
    "down",
    "layer",  # of the link layer that is not used
    "gid",  # Ethernet without a RoCE v2 GID of an IPv4 address
    "slower",
    "far",  # from all GPUs, where others are near
    "rail",  # not all nodes have this rail
]


@dataclass(frozen=True)
class Port:
    """A port of an HCA: `rate` in Gb/s, `gpus` those that share a PCIe switch with it (PIX or PXB).

    `far` where none does, and the distance to every GPU is known.

    `gid_indices` are those of its RoCE v2 GIDs of IPv4 addresses and `networks` those of these addresses,
    where the node's interfaces say them. `rail` is its position among the node's ports that were taken.
    """

    hca: str
    number: int
    state: str
    link_layer: str
    rate: float
    gpus: tuple[str, ...] = ()
    far: bool = False
    gid_indices: tuple[int, ...] = ()
    networks: tuple[str, ...] = ()
    rail: int | None = None

    @property
    def name(self) -> str:
        """`mlx5_0:1`, as NCCL_IB_HCA takes it."""
        return f"{self.hca}:{self.number}"

    @property
    def active(self) -> bool:
        return self.state == "ACTIVE"


@dataclass(frozen=True)
class InterfaceReason:
    """Whether an interface carries the sockets of NCCL, Gloo and TensorPipe, and why."""

    name: str
    addresses: tuple[str, ...]
    taken: bool
    why: str


@dataclass(frozen=True)
class PortReason:
    """Whether a port of an HCA is used by NCCL, and why."""

    port: Port
    code: Code
    why: str
    taken: bool


@dataclass(frozen=True)
class Reasons:
    """One for every interface and every HCA port of a node, and `hcas`, why these HCAs all in all."""

    interfaces: tuple[InterfaceReason, ...] = ()
    ports: tuple[PortReason, ...] = ()
    hcas: str = ""


@dataclass(frozen=True)
class Choice:
    """What a node uses. `interface` None: the facts show none that carries the node's address.

    `hcas` are the active ports that NCCL uses, chosen here or by the user; empty where nothing could be
    chosen or HCAs are off. `env` has only what clusterctl adds because of the facts, never what the user set.
    `warning` is what is doubtful about the choice.
    """

    interface: str | None
    hcas: tuple[Port, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    reasons: Reasons = Reasons()
    warning: str = ""

    @property
    def link_layers(self) -> tuple[str, ...]:
        """Of the ports in use; one, unless the user named others."""
        return tuple(sorted({port.link_layer for port in self.hcas}))

    @property
    def in_play(self) -> tuple[Port, ...]:
        """The active ports that NCCL would open: those chosen, or all of them where it is left to choose."""
        left_to_nccl = ("nothing", "unneeded")
        return self.hcas or tuple(
            reason.port
            for reason in self.reasons.ports
            if reason.code in left_to_nccl and reason.port.active and reason.port.link_layer in NETWORKS
        )

    @property
    def before_rails(self) -> tuple[Port, ...]:
        """The ports in play of this node seen alone, with those that another node's rails left out."""
        return tuple(r.port for r in self.reasons.ports if r.code == "rail") + self.in_play
