"""A command that changes something: what is kept on the nodes is read, and its steps go through the lock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from cluster import records
from cluster.apply import OnEvent, apply
from cluster.connection import Connection
from cluster.errors import ConnectionLost
from cluster.fleet import Fleet
from cluster.inventory import Inventory
from cluster.parallel import on_all
from cluster.steps import Phase, Result


@dataclass
class Operation:
    """Its lines carry the epoch with every command; `records` are what each node that answers has kept."""

    command: str
    connections: Mapping[str, Connection]
    records: Mapping[str, records.Record]

    def apply(self, phases: tuple[Phase, ...], total: int, on_event: OnEvent, remedy: str) -> Result | None:
        """As `apply.apply`, through the lock; the first call is what the audit and the hooks are told of."""
        return apply(phases, self.connections, total, on_event, remedy)


@contextmanager
def operation(command: str, inventory: Inventory, lines: Fleet) -> Iterator[Operation]:
    """`with operation("up", inventory, lines) as op:`, and whatever changes something by `op.apply`."""
    yield Operation(command, lines.connections, read_records(inventory, lines))


def read_records(
    inventory: Inventory, lines: Fleet, patterns: tuple[str, ...] = records.SMALL
) -> dict[str, records.Record]:
    """{node: what it has kept}, of the nodes that answer."""
    answers = on_all(
        {name: (name, line) for name, line in lines.connections.items()},
        lambda at: records.parse(at[1].run(records.read(inventory.cluster, at[0], patterns))),
    )
    return {name: answer for name, answer in answers.items() if not isinstance(answer, ConnectionLost)}
