"""Which link layer all nodes have in common: InfiniBand before RoCE, and never both. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.choice.choice import ETHERNET, INFINIBAND, Port
from cluster.choice.ports import is_taken, ports_of, usable
from cluster.choice.user import HcaSetting, hca_setting, is_named
from cluster.facts import Facts
from cluster.plan import Member, Plan

MOST_NODES_NAMED = 3
LACKS = {
    INFINIBAND: "no active InfiniBand port",
    ETHERNET: "no active RoCE port with a RoCE v2 GID of an IPv4 address",
}


@dataclass(frozen=True)
class Seen:
    """One node before anything is chosen: all its ports, and what the user set."""

    member: Member
    facts: Facts
    setting: HcaSetting
    ports: tuple[Port, ...]

    def has(self, layer: str) -> bool:
        """Whether it could take part in a network of this layer; ports that the user named need no GID."""
        if self.setting.kind == "named":
            return any(port.link_layer == layer for port in self.named)
        return self.setting.kind == "auto" and any(usable(port, layer) for port in self.ports)

    @property
    def named(self) -> tuple[Port, ...]:
        """The ports that NCCL takes by the NCCL_IB_HCA that the user set."""
        return tuple(port for port in self.ports if is_taken(port) and is_named(port, self.setting.ib_hca))


Nodes = Mapping[str, Seen]


def see(plan: Plan, facts: Mapping[str, Facts]) -> dict[str, Seen]:
    """{node name: Seen} of the nodes whose facts are there, in order of node rank."""
    return {
        member.name: Seen(member, facts[member.name], hca_setting(member), ports_of(facts[member.name]))
        for member in plan.members
        if member.name in facts
    }


def wanted_layers(plan: Plan) -> tuple[str, ...]:
    """The link layers that network.require allows, the better one first."""
    return {"ib": (INFINIBAND,), "roce": (ETHERNET,)}.get(plan.require, (INFINIBAND, ETHERNET))


def common_layer(plan: Plan, nodes: Nodes) -> str | None:
    """The link layer that all nodes have; None: there is none."""
    everywhere = (layer for layer in wanted_layers(plan) if all(seen.has(layer) for seen in nodes.values()))
    return next(everywhere, None) if nodes else None


def why_no_layer(plan: Plan, nodes: Nodes) -> str:
    """`no active InfiniBand port on gpu-02; no active RoCE port ... on gpu-01`."""
    return "; ".join(
        f"{LACKS[layer]} on {some(name for name, seen in nodes.items() if not seen.has(layer))}"
        for layer in wanted_layers(plan)
    )


def some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    found = list(names)
    more = len(found) - MOST_NODES_NAMED
    return ", ".join(found[:MOST_NODES_NAMED]) + (f" and {more} more" if more > 0 else "")
