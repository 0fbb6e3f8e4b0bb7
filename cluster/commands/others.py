"""The nodes of an inventory that have no part in the cluster now: spares, and those in quarantine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from cluster import console
from cluster.healing.roster import Roster
from cluster.inventory import Inventory
from cluster.inventory.spares import members

STYLES = {"standing by": "green", "unreachable": "bold red", "in quarantine": "yellow"}


@dataclass(frozen=True)
class Spare:
    """A spare, or a node that came back: `standing by`, `in use` in the place of `replaces`, `unreachable` or
    `in quarantine`.
    """

    name: str
    address: str
    gpus: int
    state: str
    replaces: str = ""


@dataclass(frozen=True)
class OutOfUse:
    """A node in quarantine, why, since when and by whom; `replaced_by` is empty where none took its place."""

    name: str
    reason: str
    since: str
    by: str
    replaced_by: str = ""


@dataclass(frozen=True)
class Others:
    """All nodes that are not the inventory's members at work."""

    spares: tuple[Spare, ...]
    quarantined: tuple[OutOfUse, ...]

    def json(self) -> dict[str, object]:
        """For programs."""
        return {
            "spares": [asdict(spare) for spare in self.spares],
            "quarantined": [asdict(node) for node in self.quarantined],
        }


def others(inventory: Inventory, now: Inventory, roster: Roster, unreachable: Mapping[str, str]) -> Others:
    """Those of an inventory that is played as `now`."""
    playing = [node.name for node in now.nodes]
    places = dict(zip((node.name for node in members(inventory)), playing, strict=True))
    replaces = {new: old for old, new in places.items() if new != old}
    by = {old: new for new, old in replaces.items()}

    quarantined = {name for name, _ in roster.quarantined}

    def state(name: str) -> str:
        if name in quarantined:
            return "in quarantine"
        if name in playing:
            return "in use"
        return "unreachable" if name in unreachable else "standing by"

    return Others(
        tuple(
            Spare(s.name, s.address, s.gpus, state(s.name), replaces.get(s.name, ""))
            for s in inventory.nodes
            if s.spare or s.name not in {*playing, *quarantined}
        ),
        tuple(
            OutOfUse(name, entry.reason, entry.since, entry.by, by.get(name, ""))
            for name, entry in roster.quarantined
        ),
    )


def show(found: Others) -> None:
    """For a person; nothing where there are none."""
    if found.spares:
        console.say("")
        rows = [(s.name, s.address, str(s.gpus), s.state, s.replaces) for s in found.spares]
        console.table(("spare", "address", "GPUs", "state", "in place of"), rows, STYLES)
    spare = {one.name for one in found.spares}
    for node in found.quarantined:
        place = f"; {node.replaced_by} has its place" if node.replaced_by else "; nothing replaces it"
        place = "" if node.name in spare else place
        console.say(f"! {node.name} is in quarantine since {node.since} ({node.by}): {node.reason}{place}")
