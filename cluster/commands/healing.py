"""The halves of `clusterctl heal`: looking at what should run, and starting it again without what is gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from cluster import console, phases
from cluster.apply import silently
from cluster.checks import judge, preflight
from cluster.commands.deployment import Deployment, Prepared
from cluster.errors import PhaseError, Problem
from cluster.facts import Facts, what_lives, what_restarts, what_serves
from cluster.fleet import Fleet
from cluster.gather import gather_tolerantly
from cluster.generations.record import Generation
from cluster.healing import roster
from cluster.healing.causes import Cause, Nothing, cause
from cluster.healing.fitness import unfit
from cluster.healing.policy import quarantine
from cluster.healing.roster import Roster
from cluster.holder import operator
from cluster.inventory import Inventory, Node
from cluster.inventory.secrets import read_secrets
from cluster.inventory.spares import NoSpareError, played
from cluster.journal import Journal, Target, target_of
from cluster.operation import Operation
from cluster.plan import Plan, make_plan
from cluster.restarts import ALL
from cluster.steps import Phase, Result

HEALTHY = 200
REMEDY = "Run `clusterctl heal` again."
GONE = "it is not in the inventory, which gives no way to reach it"


@dataclass(frozen=True)
class Look:
    """What should run, as it is played now, and what is wrong with it."""

    work: Deployment
    target: Target
    roster: Roster
    now: Inventory
    plan: Plan
    facts: Mapping[str, Facts]
    cause: Cause | Nothing

    def under(self, op: Operation) -> Look | None:
        """The same look under the lock; None where another command has changed something since."""
        if _kept(self.work.op) != _kept(op):
            return None
        work = replace(self.work, op=op, journal=Journal(op, op.inventory.cluster))
        return replace(self, work=work)


def _kept(op: Operation) -> dict[str, dict[str, str]]:
    """What the nodes keep, but for the lock itself."""
    return {node: {p: text for p, text in kept.items() if p != "lock"} for node, kept in op.records.items()}


def look(
    inventory: Inventory, file: Path, op: Operation, lines: Fleet, seen: tuple[str, ...], as_json: bool
) -> Look:
    """Find out what is wrong. `seen` are reasons that only time shows; without, a completion is asked for.

    Raises InventoryError where a secret is not to be had.
    """
    work = Deployment(inventory, op, lines, Journal(op, inventory.cluster), file, as_json=as_json)
    known = roster.newest(op.records)
    target = what_should_run(work, known.out)
    now = played(target.inventory, known.out, looking=True)
    plan = make_plan(now)
    facts, lost = gather_tolerantly(plan, lines.connections, what_restarts if seen else what_serves)
    away = {**lines.unreachable, **lost}
    unreachable = {m.name: away.get(m.name, GONE) for m in plan.members if m.name not in facts}
    work.ignore = tuple(dict.fromkeys(id_ for fact in facts.values() for id_ in fact.ignored))
    known_generations = work.journal.history
    meant_to_run = known_generations.current is not None
    taken_down = bool(known_generations.outcomes) and not meant_to_run
    seen_by = "" if seen or plan.head.name in facts else _who_sees_the_server(plan, facts, lines)
    found = cause(plan, facts, unreachable, meant_to_run, seen, seen_by, taken_down)
    return Look(work, target, known, now, plan, facts, found)


def _who_sees_the_server(plan: Plan, facts: Mapping[str, Facts], lines: Fleet) -> str:
    """A worker to whom the head's server answers that it is well; empty: none is."""
    asked = next((member.name for member in plan.workers if member.name in facts), "")
    found, _ = gather_tolerantly(
        plan,
        {name: line for name, line in lines.connections.items() if name == asked},
        partial(what_lives, asked=asked),
    )
    scrape = found[asked].scrape if asked in found else None
    return asked if scrape is not None and scrape.health == HEALTHY else ""


def what_should_run(work: Deployment, out: tuple[str, ...]) -> Target:
    """The current generation: by the operator's inventory where that is still the same, or by its record."""
    own = Target(work.inventory, out, read_secrets(work.inventory, str(work.file)))
    record = work.current()
    if record is None or _is(own, record):
        return own
    if work.as_json:
        console.emit({"event": "recorded_inventory", "generation": record.number})
    else:
        console.say(f"{work.file} was changed since `up`; generation {record.number} is what should run")
    recorded = target_of(record)
    return Target(recorded.inventory, out, recorded.secrets)


def _is(own: Target, record: Generation) -> bool:
    try:
        return Target(own.inventory, record.quarantined, own.secrets).digest == record.digest
    except NoSpareError:
        return False


@dataclass
class Healing:
    """Starting all ranks again at `now` (seconds since 1970), without the nodes `falling`, {node: reason}."""

    found: Look
    cause: Cause
    now: float
    falling: dict[str, str] = field(default_factory=dict)

    def settle(self) -> None:
        """Who falls out. Raises PhaseError where no spare can take the place of a node that is gone."""
        settings, restarts = self.found.work.inventory.heal, self.found.roster.restarts
        self.falling |= quarantine(settings, restarts, self.cause, self.now, self._can_replace)
        self._leave_out_silent()

    def restart_all(self) -> tuple[Prepared, Result | None]:
        """What was brought up, and what the model answered.

        Who takes part is settled and evidence kept before anything is stopped. Raises PhaseError: no spare
        can take the place of a node that is gone, or what was started does not serve.
        """
        work = self.found.work
        self.settle()
        history = work.journal.history
        if number := history.current or history.newest:
            work.journal.keep_evidence(number, self.found.plan)
        prepared = self._fit()
        self._write_roster()
        return prepared, work.bring_up(prepared, None)

    @property
    def target(self) -> Target:
        """What is to serve. Raises NoSpareError."""
        found = self.found.target
        target = Target(found.inventory, self._out(tuple(self.falling)), found.secrets)
        target.played  # noqa: B018  whether there are spares enough
        return target

    def _out(self, falling: tuple[str, ...]) -> tuple[str, ...]:
        """As Roster.out, with these fallen out too; some may be out already, and nobody replaces them."""
        changed = self.found.roster
        for name in falling:
            changed = changed.with_quarantined(name, "", "", "")
        return changed.out

    @property
    def replaced(self) -> dict[str, str]:
        """{node that fell out: who has its place}."""
        places = zip(self.found.now.nodes, self.target.played.nodes, strict=True)
        return {old.name: new.name for old, new in places if old.name != new.name}

    def _can_replace(self, node: str, before: tuple[str, ...]) -> bool:
        try:
            played(self.found.target.inventory, self._out((*before, node)))
        except NoSpareError:
            return False
        return True

    def _leave_out_silent(self) -> None:
        """Nodes that cannot be reached, or do not take the lock, take nobody's place."""
        op = self.found.work.op
        away = {**op.lines.unreachable, **(op.held.missing if op.held is not None else {})}
        while silent := [n.name for n in self._members() if n.name not in op.connections]:
            self.falling |= {name: f"gone: {_first(away.get(name, GONE))}" for name in silent}

    def _fit(self) -> Prepared:
        """The preparation with nodes that can do the job, as far as there are spares.

        A member that could not is left where none can replace it: it may still do, and is all there is.
        """
        while True:
            prepared = self._prepared()
            plan, facts = prepared.target.plan, prepared.facts
            errors = judge(preflight(plan, facts), self.found.work.ignore).errors
            members = {node.name for node in self.found.now.nodes}
            newcomers = {member.name for member in plan.members} - members
            broken = unfit(errors, members - newcomers, newcomers)
            leaving = [n for n in broken if n in newcomers or self._can_replace(n, tuple(self.falling))]
            if not leaving:
                self._say_problems(errors)
                return prepared
            self.falling |= {name: broken[name] for name in leaving}
            self._leave_out_silent()

    def _prepared(self) -> Prepared:
        """What was ignored when the generation was brought up is noted on newcomers too."""
        work, target = self.found.work, self.target
        prepared = work.prepare(target, work.journal.history.number_for(target.digest), ALL)
        noted = phases.note_ignored(target.plan, prepared.facts, work.ignore)
        return replace(prepared, todo=(*noted, *prepared.todo))

    def _members(self) -> tuple[Node, ...]:
        """Raises PhaseError, which names who is gone, where no spare is left."""
        try:
            return self.target.played.nodes
        except NoSpareError as error:
            reasons = {name: self.falling.get(name, "gone") for name in (error.node, *self.falling)}
            raise PhaseError("Heal", reasons, len(self.found.plan.members), f"{error}\n{REMEDY}") from error

    def _say_problems(self, errors: tuple[Problem, ...]) -> None:
        for problem in errors:
            if self.found.work.as_json:
                console.emit({"event": "error", **console.problem_json(problem)})
            else:
                console.problem("error", problem, console.PROBLEM_STYLES)

    def _write_roster(self) -> None:
        """Who falls out and why, and that it is restarted, on every node that answers."""
        work, at = self.found.work, roster.stamp(self.now)
        changed = self.found.roster.with_restart(at, self.cause.why[0], self.cause.blamed)
        for name, reason in self.falling.items():
            changed = changed.with_quarantined(name, reason, at, f"heal by {operator()}")
            self._say_quarantined(name, reason)
        phase = written(work.op, changed)
        work.op.apply((phase,), len(self.found.plan.members), silently, REMEDY)

    def _say_quarantined(self, name: str, reason: str) -> None:
        if self.found.work.as_json:
            console.emit({"event": "quarantined", "node": name, "reason": reason})
        else:
            console.say(f"{name} is not used any more: {reason}")


def written(op: Operation, changed: Roster) -> Phase:
    """The phase that writes a roster down on every node that answers."""
    epoch = op.held.epoch if op.held is not None else 0
    return roster.write(op.inventory.cluster, changed, epoch, tuple(op.connections))[1]


def _first(text: str) -> str:
    return text.splitlines()[0] if text else ""
