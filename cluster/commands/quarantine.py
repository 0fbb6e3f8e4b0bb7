"""`clusterctl quarantine`: which nodes are not used, and why; put one in, take one out."""

from __future__ import annotations

import time
from pathlib import Path

from cluster import console, fleet
from cluster.apply import silently
from cluster.commands.healing import written
from cluster.commands.others import Others, others, show
from cluster.errors import EXIT_DONE, ConnectError, UsageError
from cluster.fleet import Fleet
from cluster.healing import roster
from cluster.healing.roster import Roster
from cluster.holder import operator
from cluster.inventory import Inventory, load
from cluster.inventory.spares import played, replacement
from cluster.operation import operation
from cluster.played import played_now

REMEDY = "Run it again."


def listed(file: Path, as_json: bool) -> int:
    """Say who is in quarantine, and who stands by. Raises ConnectError where no node answers."""
    inventory = load(file)
    with fleet.connect(inventory, tolerant=True) as lines:
        _require_one(inventory, lines)
        now, known = played_now(inventory, lines)
    found = others(inventory, now, known, lines.unreachable)
    if as_json:
        console.emit(found.json())
    else:
        _show(found)
    return EXIT_DONE


def put_in(file: Path, node: str, reason: str, as_json: bool) -> int:
    """A node is not used any more, from the next `up` or `heal` on.

    Raises UsageError, and NoSpareError where it is at work and none can take its place.
    """
    inventory = load(file)
    _require_known(inventory, node)
    with fleet.connect(inventory, tolerant=True) as lines, operation("quarantine", inventory, lines) as op:
        known = roster.newest(op.records)
        if known.reason(node):
            _say(f"{node} is in quarantine already: {known.reason(node)}", node, "nothing_to_do", as_json)
            return EXIT_DONE
        at_work = node in {member.name for member in played(inventory, known.out, looking=True).nodes}
        successor = replacement(inventory, known.out, node) if at_work else ""
        changed = known.with_quarantined(node, reason, roster.stamp(time.time()), operator())
        op.result = f"{node} is in quarantine: {reason}"
        op.apply((written(op, changed),), len(inventory.nodes), silently, REMEDY)
    follows = f"; `clusterctl up` puts {successor} in its place" if successor else ""
    _say(f"{node} is in quarantine{follows}", node, "quarantined", as_json)
    return EXIT_DONE


def take_out(file: Path, node: str, as_json: bool) -> int:
    """A node may be used again, as a spare. Raises UsageError."""
    inventory = load(file)
    with fleet.connect(inventory, tolerant=True) as lines, operation("quarantine", inventory, lines) as op:
        known = roster.newest(op.records)
        if not known.reason(node):
            listed_names = ", ".join(name for name, _ in known.quarantined) or "no node is"
            raise UsageError(f"--release {node}: it is not in quarantine; there: {listed_names}")
        changed = known.without(node)
        op.result = f"{node} was released"
        op.apply((written(op, changed),), len(inventory.nodes), silently, REMEDY)
        _say(_after_release(inventory, changed, node), node, "released", as_json)
    return EXIT_DONE


def _after_release(inventory: Inventory, changed: Roster, node: str) -> str:
    now = {member.name for member in played(inventory, changed.out, looking=True).nodes}
    if node in now:
        return f"{node} is used again"
    return f"{node} stands by as a spare; nothing is restarted for it"


def _require_known(inventory: Inventory, node: str) -> None:
    names = [one.name for one in inventory.nodes]
    if node not in names:
        raise UsageError(f"{node}: no such node; the nodes are {', '.join(names)}")


def _require_one(inventory: Inventory, lines: Fleet) -> None:
    if not lines.connections:
        raise ConnectError(lines.unreachable, len(inventory.nodes))


def _show(found: Others) -> None:
    if not found.quarantined:
        console.say("no node is in quarantine")
    show(found)


def _say(text: str, node: str, event: str, as_json: bool) -> None:
    if as_json:
        console.emit({"event": event, "node": node, "what": text})
    else:
        console.say(text)
