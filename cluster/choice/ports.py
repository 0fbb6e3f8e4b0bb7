"""The ports of one node's HCAs: what they are, and which of a link layer it would use seen alone. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from cluster.choice.choice import ETHERNET, NETWORKS, Code, Port, PortReason
from cluster.facts import Facts
from cluster.facts.hardware import Gid, HcaPort
from cluster.facts.rdma import natural

# GPUDirect RDMA works up to this distance by default (NCCL_NET_GDR_LEVEL is PXB).
NEAR = ("PIX", "PXB")


@dataclass(frozen=True)
class Sifted:
    """A node's ports: those it would use, in natural order of names, and the others with the reason."""

    taken: tuple[Port, ...]
    left: tuple[PortReason, ...]


def ports_of(facts: Facts) -> tuple[Port, ...]:
    """Every port of every HCA of a node, mlx5_2 before mlx5_10."""
    found = (_port(hca.name, port, facts) for hca in facts.hcas for port in hca.ports)
    return tuple(sorted(found, key=lambda port: (natural(port.hca), port.number)))


def _port(hca: str, port: HcaPort, facts: Facts) -> Port:
    gids = [gid for gid in port.gids if gid.kind == "RoCE v2" and ipv4_of(gid) is not None]
    return Port(
        hca=hca,
        number=port.number,
        state=port.state,
        link_layer=port.link_layer,
        rate=port.rate,
        gpus=tuple(gpu for gpu, cells in facts.distances.items() if cells.get(hca) in NEAR),
        far=all(cells.get(hca, NEAR[0]) not in NEAR for cells in facts.distances.values()),
        gid_indices=tuple(gid.index for gid in gids),
        networks=tuple(dict.fromkeys(net for gid in gids if (net := _network(gid, facts)) is not None)),
    )


def ipv4_of(gid: Gid) -> IPv4Address | None:
    """The IPv4 address in a GID (`::ffff:a.b.c.d`, as sysfs spells it out); None: it is of another kind."""
    prefix = "0000:0000:0000:0000:0000:ffff:"
    digits = gid.address.removeprefix(prefix).replace(":", "")
    if not gid.address.startswith(prefix) or len(digits) != 8:
        return None
    try:
        return IPv4Address(int(digits, 16))
    except ValueError:
        return None


def _network(gid: Gid, facts: Facts) -> str | None:
    """`10.0.0.0/24`, by the interface that has the GID's address."""
    address = ipv4_of(gid)
    for interface in facts.interfaces.values():
        if address is not None and str(address) in interface.addresses:
            return next((net for net in interface.networks if address in IPv4Network(net)), None)
    return None


def is_taken(port: Port) -> bool:
    """Whether NCCL would open it: active, InfiniBand or Ethernet (src/transport/net_ib, init)."""
    return port.active and port.link_layer in NETWORKS


def usable(port: Port, layer: str) -> bool:
    """Whether NCCL could talk over it: RoCE needs a RoCE v2 GID of an IPv4 address."""
    return port.active and port.link_layer == layer and (layer != ETHERNET or bool(port.gid_indices))


def sift(ports: Iterable[Port], layer: str) -> Sifted:
    """The usable ports of a layer; of them the fastest; of them those near a GPU, where any is."""
    left: list[PortReason] = []

    def keep(ports: Iterable[Port], code: Code, why: Callable[[Port], str | None]) -> tuple[Port, ...]:
        reasons = [(port, why(port)) for port in ports]
        left.extend(PortReason(port, code, text, False) for port, text in reasons if text is not None)
        return tuple(port for port, text in reasons if text is None)

    found = keep(ports, "down", lambda port: None if port.active else state_of(port))
    found = keep(found, "layer", lambda port: None if port.link_layer == layer else _other_layer(port, layer))
    found = keep(found, "gid", lambda port: None if usable(port, layer) else NO_GID)
    fastest = max((port.rate for port in found), default=0.0)
    found = keep(found, "slower", lambda port: _slower(port, fastest))
    some_are_near = any(port.gpus for port in found)
    found = keep(found, "far", lambda port: FAR if some_are_near and port.far else None)
    return Sifted(found, tuple(left))


NO_GID = "no RoCE v2 GID of an IPv4 address"
FAR = "shares no PCIe switch with a GPU, as others do (PIX or PXB)"


def state_of(port: Port) -> str:
    """`it is DOWN`."""
    return f"it is {port.state or 'in an unknown state'}"


def _other_layer(port: Port, layer: str) -> str:
    found = port.link_layer or "unknown"
    return f"its link layer is {found}, and all nodes have {NETWORKS[layer]}"


def _slower(port: Port, fastest: float) -> str | None:
    """A rate that is not known (0) counts as no slower one."""
    return f"{port.rate:g} Gb/s beside {fastest:g} Gb/s" if 0 < port.rate < fastest else None
