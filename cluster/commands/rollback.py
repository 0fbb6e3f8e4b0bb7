"""`clusterctl rollback`: a generation that served before serves again, from its record on the nodes."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

from cluster import console, fleet
from cluster.commands import changes
from cluster.commands.check import known_ids
from cluster.commands.deployment import Deployment, UnknownGenerationError, require_members
from cluster.commands.up import judged, nothing_to_do, serving
from cluster.errors import EXIT_DONE, EXIT_NO, EXIT_USAGE, UsageError
from cluster.generations.history import History
from cluster.generations.record import Generation
from cluster.inventory import Inventory, load
from cluster.journal import Journal, recorded, target_of
from cluster.operation import operation


def rollback(file: Path, number: int | None, yes: bool, ignore: tuple[str, ...], as_json: bool) -> int:
    """Bring a former generation up. The inventory stays as it is. Raises ClusterctlError."""
    known_ids(ignore)
    started = monotonic()
    inventory = load(file)
    if not yes and not console.can_ask():
        console.complain("rollback replaces what serves: add --yes where nobody can be asked")
        return EXIT_USAGE
    with fleet.connect(inventory, tolerant=True) as lines:
        require_members(inventory, lines)
        with operation("rollback", inventory, lines) as op:
            work = Deployment(inventory, op, lines, Journal(op, inventory.cluster), file, ignore, as_json)
            former = _former(work.journal.history, number, recorded(inventory, lines))
            _require_known(former, inventory)
            wanted = work.prepare_former(former)
            target = wanted.target
            found = changes.changes_to(work.current(), target, wanted.facts)
            if not wanted.todo and not found and work.journal.is_settled(wanted.number):
                nothing_to_do(target.plan, as_json)
                return EXIT_DONE
            changes.show(found, wanted.number, as_json)
            if found.before is None and not as_json:
                console.say(f"generation {former.number} of {former.at}: nothing of it runs")
            if not yes and not console.confirm(f"Put generation {former.number} of {former.at} back?"):
                return EXIT_NO
            wanted = judged(work, wanted)
            work.timing.connecting = monotonic() - started
            last = work.bring_up(wanted, work.journal.history.fallback(wanted.number))
    serving(target.plan, last, monotonic() - started, work.timing, as_json)
    if not as_json:
        console.say(f"{file} may say otherwise: `clusterctl diff {file}` shows what `up` would change")
    return EXIT_DONE


def _former(known: History, number: int | None, records: dict[int, Generation]) -> Generation:
    """The record of the generation that is meant; by default of the newest before this one that served."""
    wanted = known.served_before if number is None else number
    if wanted is None:
        raise UnknownGenerationError("no generation before this one served: there is nothing to put back")
    if wanted not in records:
        kept = ", ".join(str(one) for one in records) or "none"
        raise UnknownGenerationError(
            f"generation {wanted} is not known on the nodes; those that are: {kept} (`clusterctl history`)"
        )
    return records[wanted]


def _require_known(former: Generation, inventory: Inventory) -> None:
    """Raises UsageError where the inventory does not say how to reach all nodes of a generation."""
    known = {node.name for node in inventory.nodes}
    missing = [node.name for node in target_of(former).played.nodes if node.name not in known]
    if missing:
        raise UsageError(
            f"generation {former.number} ran on {', '.join(missing)} too, which the inventory has no more: "
            "add it again, also as `spare: true`"
        )
