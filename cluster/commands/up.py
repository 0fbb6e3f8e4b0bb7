"""`clusterctl up`: from an inventory to a model that has answered. Read this first, then phases.py.

What happens where it fails is in deployment.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from time import monotonic

from cluster import console, fleet, phases
from cluster.commands import changes
from cluster.commands.check import known_ids
from cluster.commands.deployment import Deployment, Prepared, require_members
from cluster.commands.timing import Timing
from cluster.errors import EXIT_DONE, PreflightError, Verdict
from cluster.facts import Facts
from cluster.facts.service import parse_answer
from cluster.healing import roster
from cluster.inventory import load
from cluster.inventory.secrets import read_secrets
from cluster.journal import Journal, Target
from cluster.operation import looking, operation
from cluster.plan import Plan
from cluster.prediction import in_words, predicted, prediction_json
from cluster.steps import Result
from cluster.survey import measured


def up(file: Path, dry_run: bool, ignore: tuple[str, ...], rollback: bool, as_json: bool) -> int:
    """Bring the cluster up; what is already so stays. Raises ClusterctlError."""
    known_ids(ignore)
    started = monotonic()
    inventory = load(file)
    secrets = read_secrets(inventory, str(file))
    with fleet.connect(inventory, tolerant=True) as lines:
        require_members(inventory, lines)
        begun = operation("up", inventory, lines)
        with nullcontext(looking("up", inventory, lines)) if dry_run else begun as op:
            journal = Journal(op, inventory.cluster)
            work = Deployment(inventory, op, lines, journal, file, ignore, as_json)
            target = Target(inventory, roster.newest(op.records).out, secrets)
            wanted = work.prepare(target, journal.history.number_for(target.digest))
            found = changes.changes_to(work.current(), target, wanted.facts)
            if not wanted.todo:
                _stands(work, wanted, found, dry_run)
                return EXIT_DONE
            changes.show(found, wanted.number, as_json)
            wanted = judged(work, wanted)
            _predict(target.plan, wanted.facts, as_json)
            if dry_run:
                console.dry_run(wanted.todo, as_json)
                return EXIT_DONE
            work.timing.connecting = monotonic() - started
            last = work.bring_up(wanted, journal.history.fallback(wanted.number) if rollback else None)
    serving(target.plan, last, monotonic() - started, work.timing, as_json)
    return EXIT_DONE


def judged(work: Deployment, wanted: Prepared) -> Prepared:
    """Errors stop it before anything is changed; the rest is said, and what is ignored noted on the nodes."""
    plan, facts = wanted.target.plan, wanted.facts
    verdict = measured(plan, work.lines.connections, facts).verdict(work.ignore)
    _judge(verdict, work.as_json)
    ignored = tuple(dict.fromkeys(problem.id for problem in verdict.ignored))
    noted = phases.note_ignored(plan, facts, ignored)
    return Prepared(wanted.target, wanted.number, facts, (*noted, *wanted.todo))


def _judge(verdict: Verdict, as_json: bool) -> None:
    if as_json:
        console.emit_problems(verdict)
    if verdict.errors:
        raise PreflightError(verdict.errors)
    if not as_json:
        console.problems(verdict)


def _predict(plan: Plan, facts: Mapping[str, Facts], as_json: bool) -> None:
    """What vLLM should report, before it has loaded anything; nothing where no node knows the model."""
    found = predicted(plan, facts)
    if found is None:
        return
    if as_json:
        console.emit({"event": "prediction", **prediction_json(found)})
    else:
        console.say(f"{plan.served_name}: {in_words(found)}")


def _stands(work: Deployment, wanted: Prepared, found: changes.Changes, dry_run: bool) -> None:
    """Nothing is to be done on the nodes; a key that nothing there follows from makes a generation, too."""
    if found.before is not None and found.changes:
        changes.show(found, wanted.number, work.as_json)
    if not dry_run and (found or not work.journal.is_settled(wanted.number)):
        work.journal.begin(wanted.target, wanted.number)
        work.journal.serves(wanted.number, wanted.target.plan)
    nothing_to_do(wanted.target.plan, work.as_json)


def nothing_to_do(plan: Plan, as_json: bool) -> None:
    """Say that it serves already."""
    if as_json:
        console.emit({"event": "nothing_to_do", "url": plan.url})
    else:
        console.say(f"nothing to do: {plan.served_name} is serving on {plan.url}/v1")
        if plan.require != "any" or plan.min_bus_bandwidth is not None:
            console.say(
                "`clusterctl verify --live` shows what its traffic takes; `up` measures before it serves"
            )


def serving(plan: Plan, last: Result | None, seconds: float, timing: Timing, as_json: bool) -> None:
    """Say that it serves, and what it answered."""
    answer = parse_answer(last)["answer"].text if last is not None else None
    if as_json:
        times = {"seconds": round(seconds, 3), "own_seconds": round(timing.own, 3)}
        console.emit(
            {
                "event": "serving",
                "url": plan.url,
                "model": plan.served_name,
                "answer": answer,
                **times,
                "connect_seconds": round(timing.connecting, 3),
            }
        )
        return
    console.say(f"{plan.served_name} is serving on {plan.url}/v1 after {seconds:.1f} s")
    if answer:
        console.say(f"it answered: {' '.join(answer.split())}")
