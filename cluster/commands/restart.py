"""`clusterctl restart`: what runs is started again, as it is."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

from cluster import console, fleet
from cluster.commands.deployment import Deployment, require_members
from cluster.commands.healing import what_should_run
from cluster.commands.up import serving
from cluster.errors import EXIT_DONE, EXIT_NO, EXIT_USAGE
from cluster.healing import roster
from cluster.inventory import load
from cluster.journal import Journal
from cluster.operation import operation
from cluster.restarts import ALL


def restart(file: Path, with_ray: bool, yes: bool, as_json: bool) -> int:
    """Restart vLLM, and Ray under it where asked for or where it does not stand. 1: nothing is there to be
    restarted.

    Raises ClusterctlError.
    """
    began = monotonic()
    inventory = load(file)
    if not yes and (refused := _refused(inventory.cluster)) is not None:
        return refused
    with fleet.connect(inventory, tolerant=True) as lines:
        require_members(inventory, lines)
        with operation("restart", inventory, lines) as op:
            work = Deployment(inventory, op, lines, Journal(op, inventory.cluster), file, as_json=as_json)
            target = what_should_run(work, roster.newest(op.records).out)
            number = work.journal.history.number_for(target.digest)
            prepared = work.prepare(target, number, ALL if with_ray else ("serve",))
            if not any(fact.containers for fact in prepared.facts.values()):
                return _nothing(inventory.cluster, as_json)
            last = work.bring_up(prepared, None)
    serving(target.plan, last, monotonic() - began, work.timing, as_json)
    return EXIT_DONE


def _refused(cluster: str) -> int | None:
    """The exit code where it is not wanted, or nobody can be asked."""
    if not console.can_ask():
        console.complain("restart stops a serving model: add --yes where nobody can be asked")
        return EXIT_USAGE
    return None if console.confirm(f"Restart {cluster}? It does not answer meanwhile.") else EXIT_NO


def _nothing(cluster: str, as_json: bool) -> int:
    why = f"nothing of {cluster} runs; `clusterctl up` starts it"
    if as_json:
        console.emit({"event": "nothing_to_do", "cluster": cluster, "why": why})
    else:
        console.say(why)
    return EXIT_NO
