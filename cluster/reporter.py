"""Events of a deployment for the user: moving on a terminal, plain lines in a pipe, NDJSON with --json."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from cluster.apply import (
    Event,
    PhaseDone,
    PhaseJudged,
    PhaseStarted,
    StepDone,
    StepStarted,
    StepWaiting,
)
from cluster.console import emit, emit_problems, problems, rich_console, say, step_json, table
from cluster.steps import Judgement, Step

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Reporter:
    """Base of the three ways to show events; `with` keeps a live display tidy."""

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __call__(self, event: Event) -> None:
        raise NotImplementedError


class PlainReporter(Reporter):
    """Lines without colour or movement; a wait speaks only when its reason changes."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, PhaseStarted):
                say(f"[{event.number}/{event.of}] {event.phase.title} ({', '.join(event.phase.nodes)})")
            elif isinstance(event, StepWaiting) and self._said.get(event.step.node) != event.why:
                self._said[event.step.node] = event.why
                say(f"      {event.step.node}: {event.why} ({event.seconds:.0f} s)")
            elif isinstance(event, PhaseJudged):
                _show(event.judgement)
            elif isinstance(event, PhaseDone):
                say(f"      done in {event.seconds:.1f} s")


class JsonReporter(Reporter):
    """NDJSON: one event a line."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            emit(event_json(event))
            if isinstance(event, PhaseJudged):
                emit_problems(event.judgement.verdict)


def event_json(event: Event) -> dict[str, Any]:
    """An event for programs: times in seconds."""
    if isinstance(event, PhaseStarted):
        where = {"number": event.number, "of": event.of, "nodes": list(event.phase.nodes)}
        return {"event": "phase_started", "phase": event.phase.title, **where}
    if isinstance(event, PhaseDone):
        times = {"seconds": round(event.seconds, 3), "own_seconds": round(event.own, 3)}
        return {"event": "phase_done", "phase": event.phase.title, **times}
    if isinstance(event, PhaseJudged):
        return {"event": "judged", "phase": event.phase.title, **event.judgement.content}
    if isinstance(event, StepWaiting):
        return {
            "event": "waiting",
            **step_json(event.step),
            "why": event.why,
            "seconds": round(event.seconds, 3),
        }
    if isinstance(event, StepDone):
        return {"event": "step_done", **step_json(event.step), "seconds": round(event.seconds, 3)}
    return {"event": "step_started", **step_json(event.step)}


class LiveReporter(Reporter):
    """A line per finished phase, and below them one moving line per node at work."""

    def __init__(self) -> None:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._progress: Progress = Progress(
            TextColumn(" "),
            SpinnerColumn(),
            TextColumn("{task.fields[node]}", style="bold"),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Reporter:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, PhaseStarted):
                self._progress.print(
                    f"[bold]{event.number}/{event.of}[/bold] {event.phase.title}", highlight=False
                )
            elif isinstance(event, StepStarted):
                self._show(event.step.node, _verb(event.step))
            elif isinstance(event, StepWaiting):
                self._show(event.step.node, event.why)
            elif isinstance(event, PhaseJudged):
                self._clear()
                _show(event.judgement)  # rich redirects what is printed above its live lines
            elif isinstance(event, PhaseDone):
                self._clear()
                self._progress.print(f"    [green]✓[/green] {event.seconds:.1f} s", highlight=False)

    def _show(self, node: str, text: str) -> None:
        if node not in self._tasks:
            self._tasks[node] = self._progress.add_task(text, node=node, total=None)
        self._progress.update(self._tasks[node], description=text)

    def _clear(self) -> None:
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks.clear()


def _show(judgement: Judgement) -> None:
    """What was found, but for the errors: the exception that they end in says them."""
    for columns, rows in judgement.tables:
        table(columns, rows)
        say("")
    for line in judgement.lines:
        say(f"      {line}")
    problems(judgement.verdict, errors=False)


def _verb(step: Step) -> str:
    return str(step).partition("  ")[2]


def reporter(as_json: bool) -> Reporter:
    """The way that fits where stdout goes."""
    if as_json:
        return JsonReporter()
    return LiveReporter() if rich_console().is_terminal else PlainReporter()
