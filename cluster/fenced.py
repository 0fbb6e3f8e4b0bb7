"""A line on which every command carries the epoch, and which ends with the lock."""

from __future__ import annotations

import threading
from collections.abc import Callable

from cluster.connection import Connection, OnLine, Stdin
from cluster.errors import ConnectionLost, LockLostError
from cluster.lock.commands import REFUSED, SAYS, Fence
from cluster.lock.messages import lost, refusal
from cluster.steps import Argv, Result


class Lost(threading.Event):
    """Set when the lock is lost; the first reason stays."""

    def __init__(self, command: str) -> None:
        super().__init__()
        self._command, self._deciding = command, threading.Lock()
        self.why = ""

    def because(self, why: str) -> None:
        with self._deciding:
            self.why = self.why or why
        self.set()

    def error(self) -> LockLostError:
        return LockLostError(lost(self._command, self.why))


class FencedConnection:
    """Every command and file of a node through fence.sh, which refuses where the lease is not live.

    Raises LockLostError where the node refused, or where the lock is lost already.
    """

    def __init__(
        self, node: str, line: Connection, fence: Fence, epoch: int, token: str, lost_: Lost
    ) -> None:
        self._node, self._line, self._fence = node, line, fence
        self._epoch, self._token, self._lost = epoch, token, lost_

    def run(
        self, argv: Argv, stdin: Stdin = "", timeout: float | None = 60.0, on_line: OnLine | None = None
    ) -> Result:
        guarded = self._fence.guard(self._epoch, self._token, argv)
        return self._ask(lambda: self._line.run(guarded, stdin, timeout, on_line))

    def put(self, path: str, content: str, mode: int) -> None:
        # A Secret shows itself as ***, and has to arrive as it is.
        text = str.__str__(content)
        words = self._fence.put(self._epoch, self._token, path, mode, len(text.encode()))
        result = self._ask(lambda: self._line.run(words, text))
        if result.exit_code:
            raise ConnectionLost(f"cannot write {path} on {self._node}: {result.reason}")

    def _ask(self, ask: Callable[[], Result]) -> Result:
        if self._lost.is_set():
            raise self._lost.error()
        result = ask()
        if result.exit_code == REFUSED and SAYS in result.stderr:
            self._lost.because(refusal(self._node, result.stderr, SAYS))
            raise self._lost.error()
        return result

    def close(self) -> None:
        self._line.close()
