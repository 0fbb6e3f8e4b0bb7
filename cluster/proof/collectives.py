"""The proof of the network: what every node runs, and what their answers mean together."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.argv.node_script import script
from cluster.checks import judge as sorted_out
from cluster.facts import Facts
from cluster.plan import Plan
from cluster.proof import shown
from cluster.proof.answers import heard
from cluster.proof.bandwidth import links, measured
from cluster.proof.faults import faults
from cluster.proof.slowness import slowness
from cluster.proof.transport import (
    report_of,
    transport_content,
    transport_lines,
    transport_problems,
    transport_tables,
)
from cluster.steps import Judgement, Outcome, Run

# Seconds beside network.verify_timeout, at which the program ends by itself: a container needs some to start.
MARGIN_S = 60.0


def steps(plan: Plan) -> tuple[Run, ...]:
    """One on each node, all at once; none where there is but one rank."""
    if plan.gpus < 2:
        return ()
    timeout = plan.verify_timeout + MARGIN_S
    return tuple(Run(member.name, script(member, "verify"), timeout) for member in plan.members)


def judge(
    plan: Plan, facts: Mapping[str, Facts], ignore: tuple[str, ...], outcomes: Mapping[str, Outcome]
) -> Judgement:
    """Bandwidth, transports and what the inventory requires of them.

    Where ranks did not come to their end, only that counts: whatever else was measured, it was not all.
    Whoever ignores it is told the rest.
    """
    answers = heard(plan, outcomes)
    found, could = measured(answers), links(plan, facts)
    report = report_of({node: answer.logs for node, answer in answers.answers.items()})
    verdict = sorted_out(faults(answers, report), ignore)
    if not verdict.errors:
        rest = (*transport_problems(plan, facts, report), *slowness(plan, found, could, report))
        verdict = sorted_out((*verdict.ignored, *rest), ignore)
    return Judgement(
        verdict,
        lines=(
            *shown.lines(plan, found, could),
            *(transport_lines(plan, report) if found.sweep or report else ()),
        ),
        tables=(*shown.tables(found), *transport_tables(report)),
        content={**transport_content(plan, report), **shown.content(answers, found, could)},
    )
