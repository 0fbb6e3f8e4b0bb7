"""`clusterctl down`: all that `up` made is gone, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

from cluster import console, fleet, phases
from cluster.apply import apply
from cluster.errors import EXIT_DONE, EXIT_NO, EXIT_USAGE, PhaseError
from cluster.facts import what_is_ours
from cluster.gather import gather_tolerantly
from cluster.inventory import load
from cluster.plan import Plan, make_plan
from cluster.reporter import reporter

REMEDY = "The other nodes are clean. Run `clusterctl down` again when it answers."


def down(file: Path, yes: bool, as_json: bool) -> int:
    """Take the cluster down on every node that answers. Raises ClusterctlError."""
    inventory = load(file)
    plan = make_plan(inventory)
    if not yes:
        if not sys.stdin.isatty():
            console.complain("down stops a serving model: add --yes where nobody can be asked")
            return EXIT_USAGE
        if not console.confirm(f"Stop {plan.served_name} on {', '.join(m.name for m in plan.members)}?"):
            return EXIT_NO
    with fleet.connect(inventory, tolerant=True) as lines:
        facts, lost = gather_tolerantly(plan, lines.connections, what_is_ours)
        silent = {name: fact.engine_error for name, fact in facts.items() if fact.engine_error}
        todo = phases.down(plan, {name: fact for name, fact in facts.items() if name not in silent})
        with reporter(as_json) as report:
            apply(todo, lines.connections, len(plan.members), report, "Run `clusterctl down` again.")
    unreachable = {**lines.unreachable, **lost, **silent}
    if unreachable:
        raise PhaseError("Take down", unreachable, len(plan.members), REMEDY)
    _done(plan, bool(todo), as_json)
    return EXIT_DONE


def _done(plan: Plan, anything: bool, as_json: bool) -> None:
    if as_json:
        console.emit({"event": "down" if anything else "nothing_to_do", "cluster": plan.cluster})
    else:
        console.say(f"{plan.cluster} is down" if anything else f"nothing to do: {plan.cluster} is down")
