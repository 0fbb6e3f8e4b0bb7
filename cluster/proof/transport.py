"""What NCCL's report means for a plan: is what the inventory requires of the network shown? Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.choice import choose
from cluster.errors import Problem, Severity
from cluster.facts import Facts
from cluster.inventory.model import RDMA
from cluster.nccl import Cause, Report, holds, read, report_json
from cluster.nccl.table import headline, node_matrix, node_pairs, rank_matrix
from cluster.plan import Plan
from cluster.proof.attestation import Log
from cluster.steps import Table

# Required by nobody, they are what NCCL takes where the HCAs that are there do not work.
FALLEN_BACK = ("socket", "mixed")
UNFINISHED = ("incomplete", "failed")
MOST_CAUSES = 3
NO_CAUSE = "`clusterctl check` and `clusterctl verify --explain` say what the nodes have and what was chosen"
NO_EVIDENCE = (
    "Run `clusterctl verify`, or set serve.nccl_debug: true and run `clusterctl up` and "
    "`clusterctl verify --live`"
)


def report_of(logs: Mapping[str, tuple[Log, ...]]) -> Report | None:
    """What NCCL's logs of all processes, {node: logs}, say together; None: there are none, as with gloo."""
    named = [(f"{node}, pid {log.pid}", log) for node, of_node in logs.items() for log in of_node]
    sources = ((name, (log.content,)) for name, log in named)
    return read(sources, cut=[name for name, log in named if log.cut]) if named else None


def transport_problems(plan: Plan, facts: Mapping[str, Facts], report: Report | None) -> tuple[Problem, ...]:
    """What NCCL's report of a run over all ranks lacks of `network.require`.

    `report` None: there is no log of NCCL. On CPUs there is none by design: gloo's TCP counts as `socket`.
    On one node nothing is required of the network, but NCCL has to get through.
    """
    if plan.runtime.device == "cpu":
        return _by_gloo(plan)
    if report is None or report.verdict == "unknown":
        return _no_evidence(plan, report) if plan.workers else ()
    if report.verdict in UNFINISHED:
        return (_problem(plan, report, "transport-unfinished", "communicators that all ranks complete"),)
    if not plan.workers:
        return ()
    if not holds(report, plan.require):
        return (_problem(plan, report, "transport-unmet", f"{plan.require} (network.require)"),)
    if plan.require == "any" and report.verdict in FALLEN_BACK and _all_have_hcas(plan, facts):
        expected = "RDMA: every node has HCAs that NCCL may use"
        return (_problem(plan, report, "transport-fallback", expected, "warning"),)
    return ()


def _by_gloo(plan: Plan) -> tuple[Problem, ...]:
    if not plan.workers or plan.require not in RDMA:
        return ()
    found = "gloo carries tensors between CPUs over TCP, which counts as socket"
    remedy = "Set network.require to socket or any for CPUs"
    return (Problem("transport-unmet", plan.head.name, found, f"{plan.require} (network.require)", remedy),)


def _no_evidence(plan: Plan, report: Report | None) -> tuple[Problem, ...]:
    found = "NCCL's transport is unknown: " + (report.reason if report else "there is no log of NCCL")
    severity: Severity = "warning" if plan.require == "any" else "error"
    expected = "evidence of what carries the traffic between nodes"
    if plan.require != "any":
        expected = f"evidence of {plan.require} (network.require)"
    return (Problem("transport-unknown", plan.head.name, found, expected, NO_EVIDENCE, severity),)


def _problem(plan: Plan, report: Report, id_: str, expected: str, severity: Severity = "error") -> Problem:
    layer = f" over {report.link_layer}" if report.link_layer else ""
    found = f"NCCL's verdict is {report.verdict}{layer}: {report.reason}"
    return Problem(id_, plan.head.name, found, expected, _remedy(report.problems), severity)


def _remedy(causes: tuple[Cause, ...]) -> str:
    """The likely reasons in order, each with the line that shows it."""
    lines = (f"{cause.remedy} [{cause.id}: {cause.evidence}]" for cause in causes[:MOST_CAUSES])
    return "\n".join(lines) or NO_CAUSE


def _all_have_hcas(plan: Plan, facts: Mapping[str, Facts]) -> bool:
    """Whether every node has active ports that neither the user nor the choice turned off."""
    choices = choose(plan, facts)
    return all(member.name in choices and choices[member.name].in_play for member in plan.members)


def transport_lines(plan: Plan, report: Report | None) -> tuple[str, ...]:
    """What carries the traffic, in a line; none where nothing is known or nothing goes between nodes."""
    if plan.runtime.device == "cpu":
        return ("socket: gloo carries the traffic between nodes over TCP",) if plan.workers else ()
    return (f"{report.verdict}: {headline(report)}",) if report is not None else ()


def transport_tables(report: Report | None) -> tuple[Table, ...]:
    """Transports by pairs of nodes, and from rank to rank."""
    if report is None:
        return ()
    tables = (node_pairs(report), node_matrix(report), rank_matrix(report))
    return tuple(table for table in tables if table[0])


def transport_content(plan: Plan, report: Report | None) -> dict[str, Any]:
    """For programs: `verdict`, `link_layer`, and under `nccl` all that its logs say; null without logs."""
    by_gloo = "socket" if plan.runtime.device == "cpu" and plan.workers else "unknown"
    return {
        "verdict": report.verdict if report is not None else by_gloo,
        "link_layer": report.link_layer if report is not None else None,
        "nccl": report_json(report) if report is not None else None,
    }
