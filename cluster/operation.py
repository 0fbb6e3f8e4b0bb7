"""A command that changes something: it holds the lock, is written down on the nodes, and its hooks run."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from cluster import console, hooks, records
from cluster.apply import OnEvent, apply
from cluster.connection import Connection
from cluster.errors import EXIT_BUG, EXIT_DONE, ClusterctlError, ConnectError, ConnectionLost, Interrupted
from cluster.fleet import Fleet
from cluster.holder import moment, operator
from cluster.holding import Held, holding
from cluster.inventory import Inventory
from cluster.parallel import on_all
from cluster.records import audit
from cluster.steps import Argv, Phase, Result

AUDIT_TIMEOUT = 10.0
AUDIT_TIMEOUT_INTERRUPTED = 1.0  # a person pressed Ctrl-C and waits


@dataclass
class Operation:
    """`records` are what each node that answers has kept, read under the lock; `held` None: it only looks."""

    command: str
    inventory: Inventory
    lines: Fleet
    held: Held | None
    records: Mapping[str, records.Record]
    audited: bool
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    began: bool = False
    result: str = "done"  # what the audit says of it, if it ends well

    @property
    def connections(self) -> Mapping[str, Connection]:
        """Guarded lines: a command on them is refused on the node where the lock is no longer held."""
        return self.lines.connections if self.held is None else self.held.connections

    @property
    def missing(self) -> Mapping[str, str]:
        """{node: why} of those that did not take the lock."""
        return self.lines.unreachable if self.held is None else self.held.missing

    def apply(self, phases: tuple[Phase, ...], total: int, on_event: OnEvent, remedy: str) -> Result | None:
        """As `apply.apply`, each command under the lock's guard.

        The first call is when something begins to change: hooks run, and the audit is told. Raises what
        `apply.apply` raises, HookError before anything was changed, and LockLostError.
        """
        if self.held is None:
            raise RuntimeError(f"{self.command} only looks, and would have changed something")
        if phases and not self.began:
            hooks.run_before(*self._hooks("before"), self._variables())
            self.began = True
            self._write("began", AUDIT_TIMEOUT)
        return apply(phases, self.connections, total, on_event, remedy, self.held.lost)

    def ended(self, exit_code: int, result: str) -> None:
        """Write down how it ended; a command that changed nothing is not worth a word."""
        if self.began:
            brief = exit_code == Interrupted.exit_code
            timeout = AUDIT_TIMEOUT_INTERRUPTED if brief else AUDIT_TIMEOUT
            self._write("ended", timeout, exit_code=exit_code, result=result)

    def run_hooks_after(self, exit_code: int) -> None:
        """With how it ended; they cannot change that."""
        if self.began:
            variables = {**self._variables(), "CLUSTERCTL_EXIT_CODE": str(exit_code)}
            for failure in hooks.run_after(*self._hooks("after"), variables):
                console.complain(failure)

    def _hooks(self, when: str) -> tuple[str, tuple[str, ...]]:
        key = f"{when}_{self.command}"
        return key, getattr(self.inventory.hooks, key, ())

    def _variables(self) -> dict[str, str]:
        return {"CLUSTERCTL_COMMAND": self.command, "CLUSTERCTL_CLUSTER": self.inventory.cluster}

    def _write(self, event: str, timeout: float, **more: object) -> None:
        """Not through the guard: that it lost the lock is worth writing down too."""
        if not self.audited or self.held is None:
            return
        line = audit.Line.model_validate(
            {
                "id": self.id,
                "event": event,
                "at": moment(),
                "who": operator(),
                "command": self.command,
                "epoch": self.held.epoch,
                **more,
            }
        )

        def append(at: tuple[Connection, Argv]) -> Result:
            return at[0].run(at[1], timeout=timeout)

        cluster, connections = self.inventory.cluster, self.lines.connections
        on_all({name: (it, audit.append(cluster, name, line)) for name, it in connections.items()}, append)


@contextmanager
def operation(
    command: str, inventory: Inventory, lines: Fleet, majority: bool = True, audited: bool = True
) -> Iterator[Operation]:
    """`with operation("up", inventory, lines) as op:`, and whatever changes something by `op.apply`.

    With `majority` the lock has to be held on most of the inventory's nodes. Raises LockHeldError, and
    ConnectError where they are too few or one of them does not say what it keeps.
    """
    exit_code = EXIT_BUG
    op = None
    try:
        with holding(command, inventory, lines.connections, lines.unreachable, majority) as held:
            kept = read_records(inventory, lines)
            if majority:
                _require_records(held, kept, len(inventory.nodes))
            op = Operation(command, inventory, lines, held, kept, audited)
            try:
                yield op
            except BaseException as error:
                exit_code, result = _ending(error)
                op.ended(exit_code, result)
                raise
            exit_code = EXIT_DONE
            op.ended(exit_code, op.result)
    finally:
        if op is not None:
            op.run_hooks_after(exit_code)


def looking(command: str, inventory: Inventory, lines: Fleet) -> Operation:
    """What a dry run has of an operation: what the nodes keep, and no lock."""
    return Operation(command, inventory, lines, None, read_records(inventory, lines), audited=False)


def _require_records(held: Held, kept: Mapping[str, records.Record], total: int) -> None:
    """The one that is silent may be the only one of them that knows of the last generation and roster."""
    silent = dict.fromkeys(held.connections, "it took the lock, and does not say what it keeps")
    silent = {name: why for name, why in silent.items() if name not in kept}
    if silent:
        raise ConnectError(silent, total)


def _ending(error: BaseException) -> tuple[int, str]:
    """(exit code, the first line of what the user is told)."""
    if isinstance(error, KeyboardInterrupt):
        return Interrupted.exit_code, "interrupted"
    if isinstance(error, ClusterctlError):
        return error.exit_code, (str(error).splitlines() or [""])[0]
    return EXIT_BUG, f"a bug: {type(error).__name__}"


def read_records(
    inventory: Inventory, lines: Fleet, patterns: tuple[str, ...] = records.SMALL
) -> dict[str, records.Record]:
    """{node: what it has kept}, of the nodes that answer."""
    answers = on_all(
        {name: (name, line) for name, line in lines.connections.items()},
        lambda at: records.parse(at[1].run(records.read(inventory.cluster, at[0], patterns))),
    )
    return {name: answer for name, answer in answers.items() if not isinstance(answer, ConnectionLost)}
