"""`clusterctl up`: from an inventory to a model that has answered. Read this first, then phases.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import monotonic

from cluster import console, fleet, phases
from cluster.apply import Event, OnEvent, PhaseDone, apply
from cluster.collect import explain
from cluster.commands.check import known_ids
from cluster.doctor.finding import finding_json, without_secrets
from cluster.doctor.report import first_cause
from cluster.errors import EXIT_DONE, JudgedError, PhaseError, PreflightError, Verdict
from cluster.facts import Facts
from cluster.facts.service import parse_answer
from cluster.gather import gather
from cluster.inventory import load
from cluster.inventory.secrets import Secrets, read_secrets
from cluster.plan import Plan, make_plan
from cluster.prediction import in_words, predicted, prediction_json
from cluster.reporter import reporter
from cluster.steps import Result
from cluster.survey import measured

REMEDY = "Mend it and run `clusterctl up` again: it continues from here; or `clusterctl down`."


def up(file: Path, dry_run: bool, ignore: tuple[str, ...], as_json: bool) -> int:
    """Bring the cluster up; what is already so stays. Raises ClusterctlError."""
    known_ids(ignore)
    started = monotonic()
    inventory = load(file)
    secrets = read_secrets(inventory, str(file))
    plan = make_plan(inventory)
    with fleet.connect(inventory) as lines:
        facts = gather(plan, lines.connections)
        todo = phases.up(plan, facts, secrets, ignore)
        if not todo:
            _nothing_to_do(plan, as_json)
            return EXIT_DONE
        verdict = measured(plan, lines.connections, facts).verdict(ignore)
        _judge(verdict, as_json)
        ignored = tuple(dict.fromkeys(problem.id for problem in verdict.ignored))
        todo = (*phases.note_ignored(plan, facts, ignored), *todo)
        _predict(plan, facts, as_json)
        if dry_run:
            console.dry_run(todo, as_json)
            return EXIT_DONE
        own = _OwnTime(monotonic() - started)
        try:
            with reporter(as_json) as report:
                last = apply(todo, lines.connections, len(plan.members), own.then(report), REMEDY)
        except JudgedError:
            raise
        except PhaseError as error:
            raise _explained(error, plan, lines, secrets, as_json) from error
    _serving(plan, last, monotonic() - started, own, as_json)
    return EXIT_DONE


def _judge(verdict: Verdict, as_json: bool) -> None:
    """Errors stop it before anything is changed; the rest is said."""
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


def _explained(
    error: PhaseError, plan: Plan, lines: fleet.Fleet, secrets: Secrets, as_json: bool
) -> PhaseError:
    """The error with the first cause that the logs of all nodes show, as `clusterctl doctor` finds it."""
    known = tuple(str.__str__(value) for _, value in secrets)
    found = explain(plan, lines.connections, lines.unreachable)
    findings = [without_secrets(finding, known) for finding in found]
    if as_json and findings:
        console.emit({"event": "diagnosis", "findings": [finding_json(finding) for finding in findings]})
    return error.because(first_cause(findings))


class _OwnTime:
    """Adds up what of the time was clusterctl's own and not the nodes'."""

    def __init__(self, before: float) -> None:
        self.connecting, self.own = before, 0.0

    def then(self, on_event: OnEvent) -> OnEvent:
        """Listens, and hands every event on."""

        def listen(event: Event) -> None:
            if isinstance(event, PhaseDone):
                self.own += event.own
            on_event(event)

        return listen


def _nothing_to_do(plan: Plan, as_json: bool) -> None:
    if as_json:
        console.emit({"event": "nothing_to_do", "url": plan.url})
    else:
        console.say(f"nothing to do: {plan.served_name} is serving on {plan.url}/v1")
        if plan.require != "any" or plan.min_bus_bandwidth is not None:
            console.say(
                "`clusterctl verify --live` shows what its traffic takes; `up` measures before it serves"
            )


def _serving(plan: Plan, last: Result | None, seconds: float, own: _OwnTime, as_json: bool) -> None:
    answer = parse_answer(last)["answer"].text if last is not None else None
    if as_json:
        times = {"seconds": round(seconds, 3), "own_seconds": round(own.own, 3)}
        console.emit(
            {
                "event": "serving",
                "url": plan.url,
                "model": plan.served_name,
                "answer": answer,
                **times,
                "connect_seconds": round(own.connecting, 3),
            }
        )
        return
    console.say(f"{plan.served_name} is serving on {plan.url}/v1 after {seconds:.1f} s")
    if answer:
        console.say(f"it answered: {' '.join(answer.split())}")
