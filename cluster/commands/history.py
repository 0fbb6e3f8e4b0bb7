"""`clusterctl history`: the generations of a cluster, and what became of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import console, fleet
from cluster.errors import EXIT_DONE, ConnectError
from cluster.generations.difference import difference
from cluster.generations.history import history as read_history
from cluster.generations.record import Generation, Outcome
from cluster.inventory import load, parse
from cluster.inventory.spares import played
from cluster.journal import recorded
from cluster.operation import read_records

STYLES = {"serving": "green", "failed": "bold red", "starting": "yellow"}


@dataclass(frozen=True)
class Entry:
    """One generation; `changes` against the one before it."""

    number: int
    outcome: Outcome
    record: Generation | None
    changes: tuple[str, ...]


def history(file: Path, as_json: bool) -> int:
    """All that the nodes know, the newest last. Exit code 4 if no node answers. Raises ClusterctlError."""
    inventory = load(file)
    with fleet.connect(inventory, tolerant=True) as lines:
        if not lines.connections:
            raise ConnectError(lines.unreachable, len(inventory.nodes))
        known = read_history(read_records(inventory, lines))
        records = recorded(inventory, lines)
    entries = [
        Entry(number, outcome, records.get(number), _changes(records, number))
        for number, outcome in known.outcomes.items()
    ]
    if as_json:
        for entry in entries:
            console.emit(_json(entry, known.current))
    else:
        _show(entries, known.current)
    for name, reason in lines.unreachable.items():
        console.complain(f"{name}: {reason}")
    return EXIT_DONE


def _changes(records: dict[int, Generation], number: int) -> tuple[str, ...]:
    """What a generation changed of the one with the number before; nothing of the first."""
    before = max((other for other in records if other < number), default=None)
    if number not in records or before is None:
        return ()
    old, new = (
        played(parse(one.inventory, f"generation {one.number}"), one.quarantined, looking=True)
        for one in (records[before], records[number])
    )
    return tuple(str(change) for change in difference(old, new))


def _show(entries: list[Entry], current: int | None) -> None:
    if not entries:
        console.say("no generation yet: `clusterctl up` makes the first")
        return
    console.table(
        ("generation", "state", "began", "by", "changed"),
        [_row(entry, current) for entry in entries],
        STYLES,
    )
    for entry in entries:
        if entry.outcome.reason:
            console.say(f"! generation {entry.number}: {entry.outcome.reason}")


def _row(entry: Entry, current: int | None) -> tuple[str, ...]:
    number = f"{entry.number} *" if entry.number == current else str(entry.number)
    record = entry.record
    who = (record.at, record.by) if record is not None else ("", "")
    return (number, entry.outcome.state, *who, "; ".join(entry.changes))


def _json(entry: Entry, current: int | None) -> dict[str, Any]:
    record = entry.record
    return {
        "generation": entry.number,
        "current": entry.number == current,
        "state": entry.outcome.state,
        "since": entry.outcome.at,
        "served": entry.outcome.served,
        "reason": entry.outcome.reason,
        "digest": entry.outcome.digest,
        "began": record.at if record is not None else None,
        "by": record.by if record is not None else None,
        "version": record.version if record is not None else None,
        "inventory": record.inventory if record is not None else None,
        "changes": list(entry.changes),
    }
