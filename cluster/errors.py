"""What can go wrong, and the exit code that says what was touched.

ClusterctlError
├── UsageError        2  the command line asks for something that there is not
├── InventoryError    3  the inventory is wrong: nothing was contacted
├── ConnectError      4  a node could not be reached: nothing was changed
├── PreflightError    5  every node answered, one cannot do the job: nothing was changed
├── HookError         5  a command of the inventory's `hooks` failed before anything was changed
├── LabError          5  this machine cannot carry the lab
├── LockHeldError     6  another operator is at work: nothing was changed
├── LockLostError     7  another took the lock, or too few nodes heard of it: nothing more is started
├── PhaseError        7  a phase failed: the cluster may be partly changed
│   └── JudgedError   7  every step was carried out, and what the nodes answered does not do
└── Interrupted     130  Ctrl-C

ConnectionLost is the border between paramiko and the rest: whoever catches it
knows whether anything was changed yet, and turns it into one of the above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]

EXIT_DONE = 0
EXIT_NO = 1
EXIT_USAGE = 2
EXIT_BUG = 70
EXIT_INTERRUPTED = 130


class ClusterctlError(Exception):
    """An expected failure: `str()` is the whole message for a person, without "error: "."""

    exit_code = EXIT_BUG


class UsageError(ClusterctlError):
    """The command line asks for something that there is not; nothing was contacted."""

    exit_code = EXIT_USAGE


@dataclass(frozen=True)
class Complaint:
    """One wrong place in an inventory: line is 1-based, key_path like `nodes[2].gpus`."""

    line: int | None
    key_path: str
    what: str

    def at(self, file: str) -> str:
        place = file if self.line is None else f"{file}:{self.line}"
        return f"{place}: {self.key_path}: {self.what}" if self.key_path else f"{place}: {self.what}"


class InventoryError(ClusterctlError):
    """The inventory cannot be used; `complaints` are all the places, one line each."""

    exit_code = 3

    def __init__(self, file: str, complaints: Sequence[Complaint]) -> None:
        self.file = file
        self.complaints = tuple(complaints)
        super().__init__("\n".join(complaint.at(file) for complaint in self.complaints))


class ConnectError(ClusterctlError):
    """Nodes that could not be reached; `reasons` is {node name: reason}."""

    exit_code = 4

    def __init__(self, reasons: Mapping[str, str], total: int) -> None:
        self.reasons = dict(reasons)
        head = f"{len(self.reasons)} of {count(total, 'node')} could not be reached; nothing was changed"
        super().__init__(f"{head}\n{per_node(self.reasons)}")


@dataclass(frozen=True)
class Problem:
    """One preflight finding: an `error` stops `up`, a `warning` does not.

    `id` is stable, for `--ignore` and for programs; `remedy` is the command that mends it.
    """

    id: str
    node: str
    found: str
    expected: str
    remedy: str
    severity: Severity = "error"

    @property
    def what(self) -> str:
        """`nvidia-smi shows 7 GPUs; expected: 8`."""
        return f"{self.found.rstrip('.')}; expected: {self.expected}"

    def __str__(self) -> str:
        return f"{self.node}  {self.what} [{self.id}]\n{self.remedy}"


@dataclass(frozen=True)
class Verdict:
    """Problems sorted by what follows from them; `ignored` were asked for by id."""

    errors: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    ignored: tuple[Problem, ...] = ()


class PreflightError(ClusterctlError):
    """Every node answered, and at least one cannot do the job; `problems` are all of them."""

    exit_code = 5

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        head = f"{count(len(self.problems), 'problem')} found before anything was changed"
        lines = "\n".join(indent(str(problem)) for problem in self.problems)
        super().__init__(f"{head}\n{lines}")


class HookError(ClusterctlError):
    """A command that the user wants to run first did not succeed."""

    exit_code = 5

    def __init__(self, key: str, command: str, why: str) -> None:
        super().__init__(
            f"hooks.{key}: `{command}` {why}; nothing was changed\n"
            f"{indent('Mend it, or take it out of the inventory.')}"
        )


class LabError(ClusterctlError):
    """The lab cannot be made, found or taken down on this machine."""

    exit_code = 5

    def __init__(self, what: str, remedy: str = "") -> None:
        self.what, self.remedy = what, remedy
        super().__init__(f"{what}\n{indent(remedy)}" if remedy else what)


class LockHeldError(ClusterctlError):
    """Another operator holds the lock."""

    exit_code = 6


class LockLostError(ClusterctlError):
    """The lock is not ours any more: nodes refuse what this command would still do."""

    exit_code = 7


class PhaseError(ClusterctlError):
    """A phase failed on some nodes; `reasons` is {node name: reason}, `cause` what their logs say of it."""

    exit_code = 7

    def __init__(
        self, phase: str, reasons: Mapping[str, str], total: int, remedy: str, cause: str = ""
    ) -> None:
        self.phase, self.reasons, self.total, self.remedy = phase, dict(reasons), total, remedy
        self.cause = cause
        head = f"{phase} failed on {len(self.reasons)} of {count(total, 'node')}"
        because = f"\n{indent(f'The first cause that the logs show: {cause}')}" if cause else ""
        super().__init__(f"{head}\n{per_node(self.reasons)}{because}\n{indent(remedy)}")

    def because(self, cause: str) -> PhaseError:
        """The same failure, with its cause."""
        return PhaseError(self.phase, self.reasons, self.total, self.remedy, cause)

    def with_remedy(self, remedy: str) -> PhaseError:
        """The same failure, with what is to be done about it now."""
        return PhaseError(self.phase, self.reasons, self.total, remedy, self.cause)


class JudgedError(PhaseError):
    """Every step of a phase was carried out, and what the nodes answered together does not do.

    `problems` are the errors among what was found.
    """

    def __init__(self, phase: str, problems: Sequence[Problem], total: int, remedy: str) -> None:
        self.problems = tuple(problems)
        super().__init__(phase, _by_node(self.problems), total, remedy)


def _by_node(problems: Sequence[Problem]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for problem in problems:
        text = f"{problem.what} [{problem.id}]\n{problem.remedy}"
        reasons[problem.node] = f"{reasons[problem.node]}\n{text}" if problem.node in reasons else text
    return reasons


class Interrupted(ClusterctlError):
    """Ctrl-C; the message says what is running."""

    exit_code = EXIT_INTERRUPTED


class ConnectionLost(Exception):
    """The line to a node broke, or never came about; `str()` is the reason for a person."""


class CommandTimeout(ConnectionLost):
    """A command on a node did not end in time."""


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 node`, `2 nodes`; `plural` where it is not the noun and an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or f'{noun}s'}"


def indent(text: str) -> str:
    """Two spaces before every line, as the lines below an error's first stand."""
    return "\n".join(f"  {line}" for line in text.splitlines())


def per_node(reasons: Mapping[str, str]) -> str:
    """One paragraph per node: the name, then its reason, further lines below it."""
    width = max(len(name) for name in reasons)
    paragraphs = []
    for name, reason in reasons.items():
        first, *rest = reason.splitlines() or [""]
        paragraphs.append(indent("\n".join([f"{name:<{width}}  {first}", *(f"    {line}" for line in rest)])))
    return "\n".join(paragraphs)
