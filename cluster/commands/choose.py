"""Which members a `--node` option means, and the inventory of them alone."""

from __future__ import annotations

from cluster.errors import EXIT_USAGE, ClusterctlError
from cluster.inventory import Inventory
from cluster.plan import Member, Plan


class UnknownNodeError(ClusterctlError):
    """`--node` names no node of the inventory."""

    exit_code = EXIT_USAGE


def chosen(plan: Plan, names: tuple[str, ...]) -> tuple[Member, ...]:
    """The members of these names, all where none is named. Raises UnknownNodeError."""
    known = {member.name: member for member in plan.members}
    for name in names:
        if name not in known:
            raise UnknownNodeError(f"--node {name}: no such node; the nodes are {', '.join(known)}")
    return tuple(known[name] for name in names) or plan.members


def narrowed(inventory: Inventory, members: tuple[Member, ...]) -> Inventory:
    """The inventory with the nodes of these members alone: whom to connect to."""
    return inventory.model_copy(update={"nodes": tuple(member.node for member in members)})
