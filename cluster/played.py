"""The inventory as it is played now, by the roster that the nodes carry."""

from __future__ import annotations

from cluster.fleet import Fleet
from cluster.healing import roster
from cluster.inventory import Inventory
from cluster.inventory.spares import played, spares
from cluster.operation import read_records


def played_now(inventory: Inventory, lines: Fleet) -> tuple[Inventory, roster.Roster]:
    """(who carries the cluster now, the roster), for who only looks: whom none replaces stays."""
    kept = read_records(inventory, lines, (roster.PATH,))
    found = roster.newest(kept)
    return played(inventory, found.out, looking=True), found


def may_differ(inventory: Inventory) -> bool:
    """Whether others than the inventory's members can be at work: without spares nobody replaces anybody."""
    return bool(spares(inventory))
