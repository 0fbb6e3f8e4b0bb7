"""The interface of a node: the one that carries its address; the others, and why not. Pure."""

from __future__ import annotations

from cluster.choice.choice import InterfaceReason
from cluster.choice.user import set_in
from cluster.facts import Facts
from cluster.facts.hardware import Interface
from cluster.plan import Member

# Bridges and tunnels of containers and virtual machines: NCCL's own default comes to them late, too
# (NVIDIA/nccl, src/misc/socket.cc).
VIRTUAL = ("docker", "br-", "podman", "cni", "flannel", "cali", "veth", "virbr", "vmnet", "lxc", "lxd")


def interface_of(member: Member, facts: Facts) -> str | None:
    """The name that run_cluster.sh finds on the node, or that the user set; None: no interface carries it."""
    if member.interface is not None:
        return member.interface
    carrying = (name for name, one in facts.interfaces.items() if member.address in one.addresses)
    return next(carrying, None)


def interface_reasons(member: Member, facts: Facts) -> tuple[InterfaceReason, ...]:
    """One for each interface of the node that has an IPv4 address, the one that is taken first."""
    taken = interface_of(member, facts)
    found = [
        InterfaceReason(name, one.addresses, name == taken, _why(member, facts, name, taken))
        for name, one in facts.interfaces.items()
    ]
    if taken is not None and taken not in facts.interfaces:
        found.append(InterfaceReason(taken, (), True, _why(member, facts, taken, taken)))
    return tuple(sorted(found, key=lambda reason: not reason.taken))


def _why(member: Member, facts: Facts, name: str, taken: str | None) -> str:
    if name == taken:
        absent = (
            ("it has no IPv4 address there, or is not there",)
            if name not in facts.interfaces and facts.interfaces
            else ()
        )
        return "; ".join((_why_taken(member), *absent, *_set_apart(member)))
    interface = facts.interfaces[name]
    if name == "lo":
        return "loopback: it reaches no other node"
    if not interface.up:
        return "down"
    if name.startswith(VIRTUAL):
        return "a bridge or tunnel of containers or virtual machines"
    if member.address in interface.addresses:
        return f"it carries the node's address, but {taken} is set"
    return _elsewhere(interface, facts.interfaces.get(taken or ""))


def _elsewhere(interface: Interface, taken: Interface | None) -> str:
    if taken is None or not interface.networks or not taken.networks:
        return "it does not carry the node's address"
    if set(interface.networks) & set(taken.networks):
        return "in the same network, but without the node's address"
    return f"another network ({', '.join(interface.networks)}) than that of the node's address"


def _why_taken(member: Member) -> str:
    if member.node.is_local and not (member.node.interface or member.interface != "lo"):
        return "loopback: the node stands alone (address: local)"
    if member.node.interface is not None:
        return f"set in the inventory (interface of {member.name})"
    if member.interface is not None:
        return "set in the inventory (network.interface)"
    return f"it carries the node's address {member.address}"


def _set_apart(member: Member) -> tuple[str, ...]:
    """Variables that the user set to name an interface; the others get the one that is taken."""
    named = dict(member.interface_variables)
    env = dict(member.env)
    apart = [
        name
        for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME")
        if name not in named and name in env
    ]
    return tuple(f"{name} is {env[name]}, {set_in(member, name)}" for name in apart)
