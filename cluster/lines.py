"""Lines to nodes that are opened again where they break, for as long as somebody watches."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from tenacity import RetryCallState, RetryError, Retrying, retry_if_exception_type, wait_exponential
from tenacity import sleep_using_event as sleeping_on
from tenacity.stop import stop_when_event_set

from cluster import fleet
from cluster.connection import Connection
from cluster.errors import ConnectionLost
from cluster.inventory import Inventory, Node

LONGEST_PAUSE = 60.0  # seconds between two attempts; the first comes at once
FIRST_ATTEMPT = 90.0  # seconds for which the first attempts are waited for, at most


class Line:
    """The line to one node. `connection` is None while it is not open, and `reason` says why."""

    def __init__(self, inventory: Inventory, node: Node) -> None:
        self.connection: Connection | None = None
        self.reason = "no answer yet"
        self.tried = threading.Event()
        self._inventory, self._node = inventory, node
        self._closing = threading.Event()
        self._stack = ExitStack()
        self._open_in_background()

    def broke(self, connection: Connection, reason: str) -> None:
        """A command on it found it broken; a second word of the same break is passed over."""
        if connection is not self.connection:
            return
        self.connection, self.reason = None, reason
        self._stack.close()
        self._open_in_background()

    def close(self) -> None:
        """Closed for good; safe to call twice."""
        self._closing.set()
        self.connection = None
        self._stack.close()

    def _open_in_background(self) -> None:
        threading.Thread(target=self._open, daemon=True).start()

    def _open(self) -> None:
        attempts = Retrying(
            retry=retry_if_exception_type(ConnectionLost),
            wait=wait_exponential(max=LONGEST_PAUSE),
            stop=stop_when_event_set(self._closing),
            sleep=sleeping_on(self._closing),
            before_sleep=self._note,
        )
        with contextlib.suppress(RetryError):
            attempts(self._attempt)
        self.tried.set()

    def _attempt(self) -> None:
        with ExitStack() as stack:
            connection = fleet.opener(self._inventory, stack)(self._node)
            self._stack = stack.pop_all()
        self.connection = connection
        if self._closing.is_set():
            self.close()

    def _note(self, attempt: RetryCallState) -> None:
        error = attempt.outcome.exception() if attempt.outcome is not None else None
        self.reason = str(error)
        self.tried.set()


@contextmanager
def lasting(inventory: Inventory) -> Iterator[Mapping[str, Line]]:
    """{node: its line}, of all nodes; each was tried once before this begins."""
    found = {node.name: Line(inventory, node) for node in inventory.nodes}
    try:
        for line in found.values():
            line.tried.wait(FIRST_ATTEMPT)
        yield found
    finally:
        for line in found.values():
            line.close()


def split(lines: Mapping[str, Line]) -> tuple[dict[str, Connection], dict[str, str]]:
    """({node: its open line}, {node: why it has none})."""
    at_once = {name: line.connection for name, line in lines.items()}
    opened = {name: connection for name, connection in at_once.items() if connection is not None}
    return opened, {name: lines[name].reason for name, connection in at_once.items() if connection is None}
