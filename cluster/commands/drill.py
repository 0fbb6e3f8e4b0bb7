"""`clusterctl drill`: break something on purpose, have it found and healed, and count what it cost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

from cluster import console, fleet
from cluster.apply import Event, OnEvent, StepStarted
from cluster.drilling import report
from cluster.drilling.breaking import Break, Kill, breaking
from cluster.drilling.report import Drill
from cluster.drilling.requests import answered_since, tally
from cluster.errors import EXIT_DONE, EXIT_NO, ClusterctlError, PhaseError, UsageError
from cluster.inventory import Inventory, load
from cluster.inventory.secrets import read_secrets
from cluster.lab import lifecycle, state
from cluster.lines import Line, lasting
from cluster.liveness import Liveness, heal_due
from cluster.operation import operation
from cluster.plan import Plan
from cluster.reporter import reporter
from cluster.requesting import LONGEST, Stream, from_here, requests, through_the_head
from cluster.steps import Phase
from cluster.watching import Watcher, judged_once

PROOF = 3  # answers in a row, before it is broken and after it was healed
REMEDY = "Nothing was broken. `clusterctl status` says what is there."


class NotServingError(ClusterctlError):
    """There is nothing to rehearse on; nothing was changed."""

    exit_code = 5

    def __init__(self, plan: Plan, why: str) -> None:
        super().__init__(
            f"{plan.cluster} does not serve, so nothing was broken: {why}\n"
            "  Run `clusterctl up`, and then the drill."
        )


@dataclass
class _Stage:
    """What a drill is played on."""

    file: Path
    inventory: Inventory
    watcher: Watcher
    stream: Stream
    as_json: bool

    def __post_init__(self) -> None:
        self.never = threading.Event()

    def say(self, text: str) -> None:
        if not self.as_json:
            console.say(text)

    def wait_for(self, true: Callable[[], bool], seconds: float) -> bool:
        """Whether it became true in time."""
        end = monotonic() + seconds
        while not true():
            if monotonic() > end:
                return False
            self.never.wait(0.1)
        return True


@dataclass(frozen=True)
class _Seen:
    """`noticed` is in seconds from the break, None: it never stopped serving; `found` what it then was."""

    noticed: float | None = None
    found: Liveness | None = None
    unhealed: str = ""


def drill(file: Path, kill: Kill, node: str | None, seconds: float, yes: bool, as_json: bool) -> int:
    """Exit code 0 if it serves again, 7 if not. Raises ClusterctlError."""
    inventory = load(file)
    environ = {name: str.__str__(value) for name, value in read_secrets(inventory, str(file))}
    with lasting(inventory) as lines:
        watcher = Watcher(inventory, lines)
        broken = breaking(watcher.plan, kill, node, seconds)
        if not (yes or _is_a_lab(inventory) or _confirmed(broken)):
            return EXIT_NO
        _has_to_serve(watcher, judged_once(watcher))
        with requests(_how_to_ask(watcher, lines, environ)) as stream:
            found = _play(_Stage(file, inventory, watcher, stream, as_json), broken)
    if as_json:
        console.emit(report.drill_json(found))
    else:
        for line in report.lines(found):
            console.say(line)
    return EXIT_DONE if found.serves else PhaseError.exit_code


def _play(stage: _Stage, broken: Break) -> Drill:
    if not stage.wait_for(lambda: answered_since(stage.stream.requests, 0.0) >= PROOF, 2 * LONGEST):
        raise NotServingError(stage.watcher.plan, "of a few requests in a row it answered none")
    broke = _break(stage, broken)
    stage.say(f"broken: {broken.kill} of {broken.node}: {broken.what}")
    seen = _watch(stage, broken, broke)
    if not seen.unhealed:
        stage.wait_for(lambda: answered_since(stage.stream.requests, broke) >= PROOF, 4 * LONGEST)
    stage.stream.end()
    found = "" if seen.found is None else f"{seen.found.state}: {seen.found.why}"
    return Drill(broken, tally(stage.stream.requests, broke), seen.noticed, found, seen.unhealed)


def _break(stage: _Stage, broken: Break) -> float:
    """The moment at which it broke. The lock is given back at once: whoever heals takes it."""
    moments: list[float] = []
    with (
        fleet.connect(stage.inventory, tolerant=True) as lines,
        operation("drill", stage.inventory, lines) as op,
        reporter(stage.as_json) as told,
    ):
        phase = Phase("Break it", (broken.step,))
        op.apply((phase,), len(stage.watcher.plan.members), _noting(moments, told), REMEDY)
        ended = monotonic()
    return ended + broken.lead if broken.lead else moments[0]


def _noting(moments: list[float], then: OnEvent) -> OnEvent:
    def on_event(event: Event) -> None:
        if isinstance(event, StepStarted):
            moments.append(monotonic())
        then(event)

    return on_event


def _watch(stage: _Stage, broken: Break, broke: float) -> _Seen:
    """As `watch --heal` does, until it serves again; what never stops serving is watched for a while."""
    settings, seen = stage.inventory.watch, _Seen()
    end = broke + broken.seconds + settings.wedged_after + 6 * settings.interval
    while monotonic() < end:
        found = stage.watcher.look()
        now = monotonic()
        if found.serves and seen.noticed is not None:
            return replace(seen, unhealed="")
        if not found.serves and seen.noticed is None and now >= broke:
            stage.say(f"noticed after {now - broke:.1f} s: {found.state}: {found.why}")
            seen = _Seen(now - broke, found)
            end = now + broken.seconds + stage.inventory.serve.ready_timeout
        if seen.noticed is not None and heal_due(stage.watcher.history, found):
            seen = replace(seen, unhealed=_heal(stage, found))
        stage.never.wait(settings.interval)
    return seen


def _heal(stage: _Stage, found: Liveness) -> str:
    """Why it could not be healed, empty: it was. Once a link is back a later attempt may succeed."""
    from cluster.commands.heal import heal

    try:
        heal(stage.file, stage.as_json, found)
    except ClusterctlError as error:
        stage.say(f"not healed yet: {error}")
        return str(error)
    return ""


def _how_to_ask(watcher: Watcher, lines: Mapping[str, Line], environ: Mapping[str, str]) -> Callable[[], str]:
    """From here, where the server can be reached from here."""
    direct = from_here(lambda: watcher.plan, environ)
    return (
        direct
        if not direct()
        else through_the_head(lambda: watcher.plan, lambda name: lines[name].connection)
    )


def _has_to_serve(watcher: Watcher, found: Liveness) -> None:
    if not found.serves:
        raise NotServingError(watcher.plan, f"it is {found.state}: {found.why}")


def _confirmed(broken: Break) -> bool:
    if not console.can_ask():
        raise UsageError("drill breaks a serving model: add --yes where nobody can be asked")
    return console.confirm(f"Break {broken.kill} of {broken.node} ({broken.what})?")


def _is_a_lab(inventory: Inventory) -> bool:
    """Whether every node is a host of a lab on this machine."""
    labs = (lifecycle.find(name) for name in state.names())
    hosts = {host.address for lab in labs for host in lab.hosts}
    return all(node.address in hosts and node.ssh.host in (None, *hosts) for node in inventory.nodes)
