"""Which members a `--node` option means, and lines to them alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cluster import fleet
from cluster.errors import EXIT_USAGE, ClusterctlError, ConnectError
from cluster.fleet import Fleet
from cluster.inventory import Inventory
from cluster.plan import Member, Plan, make_plan
from cluster.played import may_differ, played_now


class UnknownNodeError(ClusterctlError):
    """`--node` names no node of the inventory."""

    exit_code = EXIT_USAGE


@dataclass(frozen=True)
class Chosen:
    """The plan as it is played now, those of its members that are meant, and the lines to these."""

    plan: Plan
    members: tuple[Member, ...]
    lines: Fleet


@contextmanager
def reach(inventory: Inventory, names: tuple[str, ...], tolerant: bool = False) -> Iterator[Chosen]:
    """Lines to the members of these names, to all where none is named.

    Where spares may have taken the places of others, all nodes are asked who is a member now. Raises
    UnknownNodeError; ConnectError unless `tolerant`.
    """
    if not may_differ(inventory):
        plan = make_plan(inventory)
        members = chosen(plan, names)
        with fleet.connect(narrowed(inventory, members), tolerant) as lines:
            yield Chosen(plan, members, lines)
        return
    with fleet.connect(inventory, tolerant=True) as lines:
        plan = make_plan(played_now(inventory, lines)[0])
        members = chosen(plan, names)
        meant = _of(lines, members)
        if meant.unreachable and not tolerant:
            raise ConnectError(meant.unreachable, len(members))
        yield Chosen(plan, members, meant)


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


def _of(lines: Fleet, members: tuple[Member, ...]) -> Fleet:
    names = {member.name for member in members}
    return Fleet(
        {name: line for name, line in lines.connections.items() if name in names},
        {name: why for name, why in lines.unreachable.items() if name in names},
    )
