"""What the user sees: text for a person, tables, JSON for programs."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cluster.errors import Problem, Verdict, indent
from cluster.steps import Phase, Run, Step, Wait

if TYPE_CHECKING:
    from rich.console import Console as RichConsole


MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
PROBLEM_STYLES = {"error": "bold red", "warning": "yellow", "ignored": "dim"}


def say(text: str) -> None:
    """A line for a person, plain."""
    print(text, flush=True)


def styled(text: str, word: str, styles: Mapping[str, str]) -> None:
    """A line whose last word is coloured."""
    from rich.text import Text

    rich_console().print(Text.assemble((text, "bold"), "  ", (word, styles.get(word, ""))), soft_wrap=True)


def complain(text: str) -> None:
    """An error's message, on stderr, in red on a terminal."""
    first, *rest = text.splitlines() or [""]
    rich_console(stderr=True).print(
        f"error: {first}", style="bold red", markup=False, highlight=False, soft_wrap=True
    )
    for line in rest:
        rich_console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)


def emit(content: Mapping[str, Any]) -> None:
    """One JSON object on a line of its own, for programs."""
    print(json.dumps(content, ensure_ascii=False), flush=True)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], styles: Mapping[str, str] | None = None
) -> None:
    """A table: aligned and coloured on a terminal, plain columns in a pipe. `styles` colours whole words.

    Where a terminal is too narrow cells are folded, but a moment (`2026-11-21T05:24:26Z`) never is.
    """
    from rich.table import Table
    from rich.text import Text

    rows = [tuple(row) for row in rows]
    moments = {at for row in rows for at, cell in enumerate(row) if MOMENT.fullmatch(cell)}
    drawn = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for at, column in enumerate(columns):
        drawn.add_column(column, overflow="fold", no_wrap=at in moments)
    for row in rows:
        drawn.add_row(*(Text(cell, style=(styles or {}).get(cell, "")) for cell in row))
    rich_console(wide=not sys.stdout.isatty()).print(drawn)


def problems(verdict: Verdict, errors: bool = True) -> None:
    """Every problem of a verdict; `errors` False leaves those out that an exception is about to say."""
    for word, found in (
        ("error", verdict.errors if errors else ()),
        ("warning", verdict.warnings),
        ("ignored", verdict.ignored),
    ):
        for one in found:
            problem(word, one, PROBLEM_STYLES)


def emit_problems(verdict: Verdict) -> None:
    """The same for programs, an object each."""
    for event, found in (
        ("error", verdict.errors),
        ("warning", verdict.warnings),
        ("ignored", verdict.ignored),
    ):
        for one in found:
            emit({"event": event, **problem_json(one)})


def problem_json(found: Problem) -> dict[str, str]:
    """A problem for programs."""
    keys = ("id", "severity", "node", "found", "expected", "remedy")
    return {key: getattr(found, key) for key in keys}


def problem(word: str, found: Problem, styles: Mapping[str, str]) -> None:
    """`error  gpu-02  docker does not answer [docker-daemon-down]`, and below it what mends it."""
    from rich.text import Text

    line = Text.assemble(
        (word, styles.get(word, "")), f"  {found.node}  {found.what} ", (f"[{found.id}]", "dim")
    )
    rich_console().print(line, soft_wrap=True)
    rich_console().print(Text(indent(found.remedy)), soft_wrap=True)


def can_ask() -> bool:
    """Whether a person sits at stdin; Python has none at all where it was closed (`<&-`, supervisors)."""
    return sys.stdin is not None and sys.stdin.isatty()


def confirm(question: str) -> bool:
    """Yes or no from a person at a terminal."""
    import click

    return click.confirm(question)


def rich_console(stderr: bool = False, wide: bool = False) -> RichConsole:
    from rich.console import Console

    class Piped(Console):
        """Rich would end the program with exit code 1 where the reader (head, less) has seen enough."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Piped(stderr=stderr, width=1000 if wide else None, highlight=False)


def dry_run(phases: tuple[Phase, ...], as_json: bool) -> None:
    """The phases and steps as they would be carried out."""
    for number, phase in enumerate(phases, 1):
        if as_json:
            emit({"event": "phase", "phase": phase.title, "steps": [step_json(step) for step in phase.steps]})
            continue
        say(f"{number}. {phase.title}")
        for step in phase.steps:
            say(f"   {step}")


def step_json(step: Step) -> dict[str, Any]:
    """A step for programs; what a file says stays out, it may be a secret."""
    if isinstance(step, Run | Wait):
        kind = "run" if isinstance(step, Run) else "wait"
        return {"node": step.node, "step": kind, "argv": list(step.argv), "command": shlex.join(step.argv)}
    return {"node": step.node, "step": "put", "path": step.path, "mode": f"{step.mode:04o}"}
