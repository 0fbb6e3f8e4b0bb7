"""`clusterctl audit`: who changed this cluster, when, and how it ended."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from cluster import console, fleet, records
from cluster.errors import EXIT_DONE, ConnectError, count
from cluster.inventory import load
from cluster.operation import read_records
from cluster.records import audit as record

COLUMNS = ("when (UTC)", "who", "command", "epoch", "exit code", "result")


def audit(file: Path, as_json: bool) -> int:
    """Print what every node that answers remembers, each act once. Raises ClusterctlError."""
    inventory = load(file)
    with fleet.connect(inventory, tolerant=True) as lines:
        kept = read_records(inventory, lines, (record.FILE,))
    unreachable = {node.name: lines.unreachable.get(node.name, "its line broke") for node in inventory.nodes}
    unreachable = {name: why for name, why in unreachable.items() if name not in kept}
    if not kept:
        raise ConnectError(unreachable, len(inventory.nodes))
    found, unreadable = record.acts({name: texts.get(record.FILE, "") for name, texts in kept.items()})
    if as_json:
        for act in found:
            console.emit(asdict(act))
    elif found:
        console.table(COLUMNS, record.rows(found))
    else:
        console.say(f"nothing was ever changed on {', '.join(kept)} for {inventory.cluster}")
    for name, number in unreadable.items():
        console.complain(
            f"{name}: {count(number, 'line')} of {_path(inventory.cluster, name)} cannot be read"
        )
    for name, why in unreachable.items():
        console.complain(f"{name}: {why}")
    return ConnectError.exit_code if unreachable else EXIT_DONE


def _path(cluster: str, node: str) -> str:
    return f"~/{records.folder(cluster, node)}/{record.FILE}"
