"""Steps as data: what is done on one node. `str(step)` is what `--dry-run` prints."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import Verdict

Argv = tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What a command on a node answered; streams are decoded as UTF-8 with replacement."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def reason(self) -> str:
        """The last line that says something, errors first."""
        lines = [line for line in (self.stderr or self.stdout).splitlines() if line.strip()]
        return lines[-1].strip() if lines else "it said nothing"


class Secret(str):
    """Text that must not be shown: repr and format are redacted, the value itself is not."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)


@dataclass(frozen=True)
class Run:
    """Run a command on a node once; anything but exit code 0 fails the phase.

    `evidence` is a command whose output explains the failure (a container's last log lines), and
    `starts` names what runs on the node from then on ("Ray"), for whoever interrupts.
    """

    node: str
    argv: Argv
    timeout: float = 60.0
    evidence: Argv = ()
    starts: str = ""

    def __str__(self) -> str:
        return f"{self.node}  {shlex.join(self.argv)}"


@dataclass(frozen=True)
class Put:
    """Write a file on a node, whole or not at all; `path` is relative to the home folder."""

    node: str
    path: str
    content: str
    mode: int = 0o644

    def __str__(self) -> str:
        size = len(self.content.encode())
        return f"{self.node}  write {self.path} (mode {self.mode:04o}, {size} bytes)"


@dataclass(frozen=True)
class Wait:
    """Ask a node again and again until `pending` has nothing left to say.

    `pending(result)` is why it still waits, or None when it is over. `failed(result)` is why waiting
    is in vain (the container is dead), or None; it ends the wait at once. `longest_poll` bounds the
    pause between two questions and `longest_answer` one question, which is then asked again; in seconds.
    """

    node: str
    argv: Argv
    pending: Callable[[Result], str | None]
    timeout: float
    failed: Callable[[Result], str | None] = lambda _: None
    evidence: Argv = ()
    longest_poll: float = 1.0
    longest_answer: float = 120.0

    def __str__(self) -> str:
        return f"{self.node}  wait up to {self.timeout:g} s for: {shlex.join(self.argv)}"


Step = Run | Put | Wait


# What a node's last step answered, or why it failed there.
Outcome = Result | str
Row = tuple[str, ...]
Table = tuple[Row, tuple[Row, ...]]  # columns and rows, for console.table
NOTHING_FOUND = Verdict()


@dataclass(frozen=True)
class Judgement:
    """What the outcomes of all nodes mean together.

    For people `lines` and `tables`; for programs `content`.
    """

    verdict: Verdict = NOTHING_FOUND
    lines: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    content: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Phase:
    """A titled group of steps; different nodes at once, the steps of one node in order.

    With `judge` a step that fails does not end the phase: all nodes are heard, {node: outcome}, and the
    errors in its judgement do.
    """

    title: str
    steps: tuple[Step, ...]
    judge: Callable[[Mapping[str, Outcome]], Judgement] | None = None

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes it touches, each once, in order."""
        return tuple(dict.fromkeys(step.node for step in self.steps))
