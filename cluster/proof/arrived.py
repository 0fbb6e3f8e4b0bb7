"""What arrived where Ray's workers and vLLM's ranks run: the environment of their processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.argv.node_script import script
from cluster.checks import judge as sorted_out
from cluster.doctor.redact import redacted_value
from cluster.errors import Problem, count
from cluster.facts import Facts
from cluster.plan import Plan
from cluster.proof.attestation import Attestation, Process, parse
from cluster.proof.environment import environment_problems
from cluster.steps import Judgement, Outcome, Run

TIMEOUT = 60.0


def steps(plan: Plan) -> tuple[Run, ...]:
    """One on each node, all at once."""
    return tuple(Run(member.name, script(member, "attest"), TIMEOUT) for member in plan.members)


def judge(
    plan: Plan, facts: Mapping[str, Facts], ignore: tuple[str, ...], outcomes: Mapping[str, Outcome]
) -> Judgement:
    """What differs from the plan, variable by variable."""
    attested, unread = heard(plan, outcomes)
    problems = (*unread, *environment_problems(plan, facts, attested, {}))
    return Judgement(
        sorted_out(problems, ignore),
        lines=(summary(attested, problems),) if attested else (),
        content={"environments": environments_json(attested)},
    )


def heard(plan: Plan, outcomes: Mapping[str, Outcome]) -> tuple[dict[str, Attestation], tuple[Problem, ...]]:
    """What each node answered, and those that did not."""
    answers = {name: parse(outcome) for name, outcome in outcomes.items()}
    unread = tuple(
        Problem(
            "env-unread",
            member.name,
            answer,
            "the environment of Ray's and vLLM's processes",
            f"Ask on the node: sh ~/{member.folder}/run_cluster.sh attest",
        )
        for member in plan.members
        if isinstance(answer := answers.get(member.name), str)
    )
    return {name: one for name, one in answers.items() if isinstance(one, Attestation)}, unread


def summary(attested: Mapping[str, Attestation], problems: tuple[Problem, ...]) -> str:
    """`14 processes on 2 nodes have the environment that was planned`."""
    processes = sum(len(one.processes) for one in attested.values())
    verb = "do not have" if problems else "have"
    where = f"{count(processes, 'process', 'processes')} on {count(len(attested), 'node')}"
    return f"{where} {verb} the environment that was planned"


def _without_secrets(process: Process) -> dict[str, str] | None:
    if process.environment is None:
        return None
    return {name: redacted_value(name, value) for name, value in process.environment.items()}


def environments_json(attested: Mapping[str, Attestation]) -> dict[str, Any]:
    """{node: [{pid, kind, what, environment}]} for programs."""
    return {
        name: [
            {"pid": one.pid, "kind": one.kind, "what": one.what, "environment": _without_secrets(one)}
            for one in attestation.processes
        ]
        for name, attestation in attested.items()
    }
