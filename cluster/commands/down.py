"""`clusterctl down`: all that `up` made is gone, and nothing else. The nodes remember what was done."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from cluster import console, fleet, phases, watch_unit
from cluster.apply import apply
from cluster.errors import EXIT_DONE, EXIT_NO, EXIT_USAGE, PhaseError, UsageError
from cluster.facts import what_is_ours
from cluster.fleet import Fleet
from cluster.gather import gather_tolerantly
from cluster.generations import keep
from cluster.healing import roster
from cluster.inventory import Inventory, load
from cluster.inventory.spares import played, spares
from cluster.journal import Journal
from cluster.operation import Operation, operation, read_records
from cluster.plan import Plan, make_plan, with_others
from cluster.reporter import reporter
from cluster.steps import Phase

REMEDY = "The other nodes are clean. Run `clusterctl down` again when it answers."
AGAIN = "Run `clusterctl down` again."


def down(file: Path, yes: bool, purge: bool, as_json: bool) -> int:
    """Take the cluster down on every node that answers. Raises ClusterctlError."""
    inventory = load(file)
    plan = with_others(inventory, make_plan(inventory))
    if not yes:
        if not console.can_ask():
            console.complain("down stops a serving model: add --yes where nobody can be asked")
            return EXIT_USAGE
        forget = ", and forget its history, its audit and who is in quarantine" if purge else ""
        nodes = ", ".join(member.name for member in plan.members)
        if not console.confirm(f"Stop {plan.served_name} on {nodes}{forget}?"):
            return EXIT_NO
    with fleet.connect(inventory, tolerant=True) as lines:
        if purge:
            _require_unwatched(inventory, lines, file)
        with operation("down", inventory, lines, majority=False) as op:
            anything = _take_down(plan, op, as_json)
        if purge:
            anything = _forget(plan, lines, as_json) or anything
    _done(plan, anything, as_json)
    return EXIT_DONE


def _take_down(plan: Plan, op: Operation, as_json: bool) -> bool:
    """Whether there was anything. Raises PhaseError with the nodes that could not be looked at.

    That nothing should run any more is noted first, whoever cannot be reached: `watch --heal` must not start
    again what a killed `down` left, or what it took down of a cluster with a node that is gone.
    """
    journal = Journal(op, plan.cluster)
    facts, lost = gather_tolerantly(plan, op.connections, what_is_ours)
    silent = {name: fact.engine_error for name, fact in facts.items() if fact.engine_error}
    todo = phases.down(plan, {name: fact for name, fact in facts.items() if name not in silent})
    with suppress(PhaseError):  # a node that takes no note, its disk full, has to be taken down all the same
        journal.ended()
    with reporter(as_json) as report:
        op.apply(todo, len(plan.members), report, AGAIN)
    journal.ended()
    unreachable = _that_matter({**op.missing, **lost, **silent}, op.inventory, roster.newest(op.records).out)
    if unreachable:
        raise PhaseError("Take down", unreachable, len(plan.members), REMEDY)
    return bool(todo)


def _require_unwatched(inventory: Inventory, lines: Fleet, file: Path) -> None:
    """Raises UsageError: the unit would be started again for ever, without the inventory that it reads."""
    watched = [n for n, kept in read_records(inventory, lines, (watch_unit.INVENTORY,)).items() if kept]
    if watched:
        raise UsageError(
            f"{', '.join(watched)} watches this cluster by itself; nothing was changed\n"
            f"  `clusterctl watch --uninstall {file}` first, then `clusterctl down --purge {file}`"
        )


def _that_matter(
    unreachable: Mapping[str, str], inventory: Inventory, quarantined: tuple[str, ...]
) -> dict[str, str]:
    """But for spares that stand by: nothing was started there, and they may be switched off."""
    at_work = {node.name for node in played(inventory, quarantined, looking=True).nodes}
    idle = {spare.name for spare in spares(inventory)} - at_work - set(quarantined)
    for name in idle & unreachable.keys():
        console.complain(f"{name}, a spare that stands by: {unreachable[name]}")
    return {name: why for name, why in unreachable.items() if name not in idle}


def _forget(plan: Plan, lines: Fleet, as_json: bool) -> bool:
    """The lock, generations and audit too, once the lock is given back."""
    phase = Phase("Forget what was kept", keep.purge(plan.cluster, lines.connections))
    with reporter(as_json) as report:
        apply((phase,), lines.connections, len(plan.members), report, AGAIN)
    return True


def _done(plan: Plan, anything: bool, as_json: bool) -> None:
    if as_json:
        console.emit({"event": "down" if anything else "nothing_to_do", "cluster": plan.cluster})
    else:
        console.say(f"{plan.cluster} is down" if anything else f"nothing to do: {plan.cluster} is down")
