"""`clusterctl diff`: what an inventory would change, and how what runs deviates from what was brought up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from cluster import console, fleet
from cluster.commands import changes
from cluster.commands.changes import Changes
from cluster.errors import EXIT_DONE, EXIT_USAGE, ConnectError
from cluster.facts import without_hashes
from cluster.gather import gather_tolerantly
from cluster.generations.drift import Drift, drift
from cluster.generations.history import history
from cluster.generations.record import Generation
from cluster.healing import roster
from cluster.inventory import load, parse
from cluster.inventory.secrets import read_secrets
from cluster.inventory.spares import played
from cluster.journal import Target, baselines, recorded
from cluster.operation import read_records
from cluster.plan import Plan, make_plan

EXIT_DIFFERS = EXIT_USAGE  # 2, as `diff` and `terraform plan -detailed-exitcode` have it for programs


def diff(file: Path, as_json: bool) -> int:
    """Exit code 0 where nothing differs, 2 where something does, 4 where a member cannot be reached.

    Read-only, and without the lock. Raises ClusterctlError.
    """
    inventory = load(file)
    secrets = read_secrets(inventory, str(file))
    with fleet.connect(inventory, tolerant=True) as lines:
        kept = read_records(inventory, lines)
        known, out = history(kept), roster.newest(kept).out
        current = recorded(inventory, lines, (known.current,)).get(known.current) if known.current else None
        target = Target(played(inventory, out, looking=True), (), secrets)
        facts, lost = gather_tolerantly(target.plan, lines.connections, without_hashes)
    broken = {**lines.unreachable, **lost}
    missing = {m.name: broken[m.name] for m in target.plan.members if m.name in broken}
    found = changes.changes_to(current, target, {} if missing else facts)
    drifted = [] if current is None else drift(_plan_of(current), baselines(known), facts)
    if as_json:
        _emit(found, drifted, missing)
    else:
        _show(found, drifted, tuple(missing))
    if missing:
        raise ConnectError(missing, len(target.plan.members))
    return EXIT_DIFFERS if found or drifted else EXIT_DONE


def _plan_of(current: Generation) -> Plan:
    inventory = parse(current.inventory, f"generation {current.number}")
    return make_plan(played(inventory, current.quarantined, looking=True))


def _emit(found: Changes, drifted: list[Drift], missing: Mapping[str, str]) -> None:
    content = {"differs": bool(found), **changes.changes_json(found)}
    console.emit({**content, "drift": [asdict(one) for one in drifted], "unreachable": dict(missing)})


def _show(found: Changes, drifted: list[Drift], missing: tuple[str, ...]) -> None:
    for one in drifted:
        console.say(f"! {one}")
    if found.before is None and missing:
        console.say(f"no node that answers knows of a generation; {', '.join(missing)} may")
    elif found.before is None:
        console.say(f"nothing is deployed: `clusterctl up` {found.follows}")
    elif found or drifted:
        console.say(f"against generation {found.before.number} of {found.before.at}:")
        for line in changes.lines(found):
            console.say(f"  {line}")
    elif missing:
        console.say(
            f"the inventory is that of generation {found.before.number}; whether it runs on "
            f"{', '.join(missing)} is not known"
        )
    else:
        console.say(f"no difference: generation {found.before.number} runs as the inventory says")
