"""Bringing a generation up, and putting the one before back where it does not serve: `up` and `rollback`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cluster import console
from cluster.collect import explain
from cluster.commands.timing import Timing
from cluster.doctor.finding import finding_json, without_secrets
from cluster.doctor.report import first_cause
from cluster.errors import (
    EXIT_USAGE,
    ClusterctlError,
    ConnectError,
    ConnectionLost,
    Interrupted,
    JudgedError,
    PhaseError,
    indent,
)
from cluster.facts import Facts, facts_of, what_is_ours, what_restarts
from cluster.fleet import Fleet
from cluster.gather import gather, gather_tolerantly
from cluster.generations.record import Generation
from cluster.healing import roster
from cluster.inventory import Inventory
from cluster.inventory.spares import played
from cluster.journal import Journal, Target, recorded, target_of
from cluster.operation import Operation, read_records
from cluster.plan import with_others
from cluster.reporter import reporter
from cluster.restarts import ALL, clear_others, counted_in_ray, not_counted, restart
from cluster.steps import Phase, Result

REMEDY = "Mend it and run `clusterctl up` again: it continues from here; or `clusterctl down`."


class UnknownGenerationError(ClusterctlError):
    """A generation that the nodes know nothing of, or nothing any more."""

    exit_code = EXIT_USAGE


@dataclass(frozen=True)
class Prepared:
    """A target under its number, what its members say, and what has to be done."""

    target: Target
    number: int
    facts: Mapping[str, Facts]
    todo: tuple[Phase, ...]


@dataclass
class Deployment:
    """What bringing up takes: the operation with its lines, the journal, and what the user asked for."""

    inventory: Inventory
    op: Operation
    lines: Fleet
    journal: Journal
    file: Path
    ignore: tuple[str, ...] = ()
    as_json: bool = False
    timing: Timing = field(default_factory=Timing)

    def bring_up(self, wanted: Prepared, previous: int | None) -> Result | None:
        """The answer of the last step. Where it fails, `previous` is put back; None: nothing is.

        Raises PhaseError, Interrupted.
        """
        self.timing.begin(_answers(wanted))
        self.journal.begin(wanted.target, wanted.number)
        try:
            last = self._carry_out(wanted)
        except PhaseError as error:
            raise self._failed(error, wanted, previous) from error
        except Interrupted as error:
            raise _interrupted(error, wanted.number, previous) from None
        # A node that takes no note of it is no reason to take down what answers.
        self.journal.serves(wanted.number, wanted.target.plan)
        return last

    def _carry_out(self, wanted: Prepared) -> Result | None:
        plan = wanted.target.plan
        with reporter(self.as_json) as report:
            return self.op.apply(wanted.todo, len(plan.members), self.timing.then(report), REMEDY)

    def _failed(self, error: PhaseError, wanted: Prepared, previous: int | None) -> PhaseError:
        """The error with its cause; before it is told, the evidence is kept and what served put back."""
        self.journal.keep_evidence(wanted.number, wanted.target.plan)
        with suppress(PhaseError):  # a node that is gone takes no note; the failure itself is what counts
            self.journal.note(wanted.number, "failed", str(error).partition("\n")[0])
        explained = error if isinstance(error, JudgedError) else self._explained(error, wanted.target)
        if previous is None or previous == wanted.number:
            return explained
        return explained.with_remedy(self._put_back(wanted, previous, explained))

    def _explained(self, error: PhaseError, target: Target) -> PhaseError:
        """The error with the first cause that the logs of all nodes show, as `clusterctl doctor` finds it."""
        known = tuple(str.__str__(value) for _, value in target.secrets)
        found = explain(target.plan, self.op.connections, self.lines.unreachable)
        findings = [without_secrets(finding, known) for finding in found]
        if self.as_json and findings:
            console.emit({"event": "diagnosis", "findings": [finding_json(finding) for finding in findings]})
        return error.because(first_cause(findings))

    def _put_back(self, wanted: Prepared, previous: int, error: PhaseError) -> str:
        """Make the previous generation serve again, and say in a sentence or two how that went."""
        failed, reason = wanted.number, str(error).partition("\n")[0]
        self._say(
            {"event": "rollback", "failed": failed, "generation": previous, "reason": reason},
            f"generation {failed} does not serve: {reason}\nputting generation {previous} back",
        )
        logs = f"`clusterctl logs --generation {failed} {self.file}` shows what generation {failed} said."
        try:
            again = self._begun_again(previous, wanted.target)
            self._carry_out(again)
            self.journal.serves(again.number, again.target.plan)
        except Interrupted as interrupted:
            raise Interrupted(f"{interrupted}\n  generation {previous} was being put back") from None
        except (ClusterctlError, ConnectionLost) as second:
            told = str(second).removesuffix(indent(REMEDY)).rstrip()
            return f"Generation {previous} could not be put back: {told}\n{logs}\n{REMEDY}"
        away = self.timing.away
        self._say(
            {"event": "rolled_back", "generation": again.number, "unavailable_seconds": round(away, 3)},
            f"generation {again.number} answers",
        )
        gap = f"no generation answered for {away:.1f} s" if away else "it never stopped answering"
        return (
            f"Generation {again.number} was put back and answers; {gap}.\n{logs}\n"
            "Mend the inventory and run `clusterctl up` again."
        )

    def _begun_again(self, number: int, failed: Target) -> Prepared:
        """A generation that served, prepared anew from its record. Raises ClusterctlError."""
        record = recorded(self.inventory, self.lines, (number,)).get(number)
        if record is None:
            raise UnknownGenerationError(f"no node has its record (generations/{number}/record.json)")
        wanted = self.prepare_former(record)
        if wanted.target.digest == failed.digest:
            raise UnknownGenerationError("with the nodes that are in use now it is what has just failed")
        self.journal.begin(wanted.target, wanted.number)
        return wanted

    def prepare_former(self, former: Generation) -> Prepared:
        """Under its own number, or under another where other nodes carry it by now: who was quarantined since
        is not used again, and who watches would find the roster's nodes missing. Raises NoSpareError.
        """
        then = target_of(former)
        target = Target(then.inventory, roster.newest(self.op.records).out, then.secrets)
        same = target.played == played(then.inventory, former.quarantined, looking=True)
        number = former.number if same else self.journal.history.number_for(target.digest)
        return self.prepare(target, number)

    def current(self) -> Generation | None:
        """The record of what should run now; None: nothing should, or no node can show it."""
        number = self.journal.history.current
        return recorded(self.inventory, self.lines, (number,)).get(number) if number else None

    def prepare(self, target: Target, number: int, again: tuple[str, ...] = ()) -> Prepared:
        """Ask the members, and work out what has to be done; the containers of the roles `again` are started
        again though they stand. Raises ConnectError where a member cannot be had.
        """
        self._require(target)
        facts = gather(target.plan, self.lines.connections, what_restarts if again else facts_of)
        others = target.other_addresses
        if counted_in_ray(facts, others):
            again = ALL
        facts = {name: not_counted(fact, others) for name, fact in facts.items()}
        todo = restart(target.plan, facts, again, target.secrets, self.ignore, number)
        return Prepared(target, number, facts, (*self._clear_others(target), *todo))

    def _require(self, target: Target) -> None:
        """A node may be reached and not take the lock: its disk is full, its home is read-only."""
        held = self.op.held
        reasons = {**self.lines.unreachable, **(held.missing if held is not None else {})}
        without = [m.name for m in target.plan.members if m.name not in self.op.connections]
        if without:
            raise ConnectError({n: reasons.get(n, "no line") for n in without}, len(target.plan.members))

    def _clear_others(self, target: Target) -> tuple[Phase, ...]:
        """What runs on nodes that have no part in the target: spares, and who was replaced by one."""
        members = {member.name for member in target.plan.members}
        others = {name: line for name, line in self.lines.connections.items() if name not in members}
        if not others:
            return ()
        whole = with_others(target.inventory, target.plan)
        facts, _ = gather_tolerantly(whole, others, what_is_ours)
        return clear_others(whole, members, {n: fact for n, fact in facts.items() if not fact.engine_error})

    def _say(self, event: Mapping[str, object], text: str) -> None:
        if self.as_json:
            console.emit(event)
        else:
            console.say(text)


def require_members(inventory: Inventory, lines: Fleet) -> None:
    """Raises ConnectError for members that cannot be reached; spares and quarantined nodes do not matter."""
    if not lines.unreachable:
        return
    out = roster.newest(read_records(inventory, lines, (roster.PATH,))).out
    nodes = played(inventory, out).nodes
    missing = {n.name: lines.unreachable[n.name] for n in nodes if n.name in lines.unreachable}
    if missing:
        raise ConnectError(missing, len(nodes))


def _answers(wanted: Prepared) -> bool:
    found = wanted.facts[wanted.target.plan.head.name].answer
    return found is not None and found.text is not None


def _interrupted(error: Interrupted, number: int, previous: int | None) -> Interrupted:
    if previous is None or previous == number:
        return error
    return Interrupted(
        f"{error}\n  generation {number} is half made, and nothing was put back: "
        f"`clusterctl rollback` puts generation {previous} back"
    )
