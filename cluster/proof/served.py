"""What the served model really runs with: its ranks' environment, and NCCL's own logs of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cluster.checks import judge as sorted_out
from cluster.errors import Problem
from cluster.facts import Facts
from cluster.nccl import Report
from cluster.plan import Plan
from cluster.proof.arrived import environments_json, heard, summary
from cluster.proof.attestation import Attestation
from cluster.proof.environment import Said, environment_problems
from cluster.proof.transport import (
    report_of,
    transport_content,
    transport_lines,
    transport_problems,
    transport_tables,
)
from cluster.steps import Judgement, Outcome

SERVES = "The model serves meanwhile"


def judge(
    plan: Plan, facts: Mapping[str, Facts], ignore: tuple[str, ...], outcomes: Mapping[str, Outcome]
) -> Judgement:
    """Of a model that has answered: what differs from the plan, and what its traffic takes.

    Without a log of NCCL the latter is unknown, which is an error where `network.require` wants to know.
    """
    return _judge(plan, facts, ignore, outcomes, needs_log=True)


def judge_started(
    plan: Plan, facts: Mapping[str, Facts], ignore: tuple[str, ...], outcomes: Mapping[str, Outcome]
) -> Judgement:
    """The same at the end of `up`: where no log is kept, the probe that came before has the word."""
    return _judge(plan, facts, ignore, outcomes, needs_log=False)


def _judge(
    plan: Plan,
    facts: Mapping[str, Facts],
    ignore: tuple[str, ...],
    outcomes: Mapping[str, Outcome],
    *,
    needs_log: bool,
) -> Judgement:
    attested, unread = heard(plan, outcomes)
    report = report_of({node: attestation.logs for node, attestation in attested.items()})
    arrived = (
        *_ranks_not_seen(plan, attested),
        *environment_problems(plan, facts, attested, said(attested, report)),
    )
    heard_all = not sorted_out(unread, ignore).errors
    shown = heard_all and (needs_log or report is not None or plan.runtime.device == "cpu")
    problems = (*unread, *arrived, *(transport_problems(plan, facts, report) if shown else ()))
    return Judgement(
        sorted_out((_while_it_serves(problem) for problem in problems), ignore),
        lines=(
            *((summary(attested, arrived),) if attested else ()),
            *transport_lines(plan, report),
            *_cut(attested),
        ),
        tables=transport_tables(report),
        content={**transport_content(plan, report), "environments": environments_json(attested)},
    )


def _cut(attested: Mapping[str, Attestation]) -> tuple[str, ...]:
    """What is read of a log is its head: the reader of a log that looks cut has to know by whom."""
    return tuple(
        f"{node}: the log of pid {log.pid} was read in part: it has {log.size} bytes"
        for node, attestation in attested.items()
        for log in attestation.logs
        if log.cut
    )


def said(attested: Mapping[str, Attestation], report: Report | None) -> Said:
    """{node: {pid: {name: value}}}; NCCL names a host as its kernel does, up to the first dot."""
    environments = report.environment if report is not None else {}
    return {
        node: {
            pid: dict(variables)
            for (host, pid), variables in environments.items()
            if host == attestation.host.partition(".")[0]
        }
        for node, attestation in attested.items()
    }


def _ranks_not_seen(plan: Plan, attested: Mapping[str, Attestation]) -> tuple[Problem, ...]:
    """A model that answers has all its ranks: where fewer are seen, the environment of some is unknown."""
    ranks = {node: len(one.of("rank")) for node, one in attested.items()}
    alone = plan.world_size == 1 and any(one.of("engine") for one in attested.values())
    if alone or len(attested) < len(plan.members) or sum(ranks.values()) >= plan.world_size:
        return ()
    seen, of_nodes = sum(ranks.values()), ", ".join(f"{number} on {node}" for node, number in ranks.items())
    return (
        Problem(
            "ranks-not-seen",
            plan.head.name,
            f"{seen} of vLLM's ranks run: {of_nodes}",
            f"{plan.world_size}, one for each",
            f"See which processes there are: sh ~/{plan.head.folder}/run_cluster.sh exec ps aux",
            "warning",
        ),
    )


def _while_it_serves(problem: Problem) -> Problem:
    if problem.severity == "warning":
        return problem
    return replace(problem, remedy=f"{problem.remedy}\n{SERVES}")
