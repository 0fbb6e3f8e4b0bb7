"""Fetch the logs of a cluster, all nodes at once, one round trip each; and what they show."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cluster.connection import Connection
from cluster.doctor.diagnose import diagnose
from cluster.doctor.finding import Finding, without_secrets
from cluster.doctor.load import packaged
from cluster.doctor.signature import Signatures
from cluster.doctor.sources import (
    NodeLogs,
    between_nodes,
    questions,
    read_answers,
    skew_of,
    unreachable_lines,
)
from cluster.errors import CommandTimeout, ConnectionLost
from cluster.facts import script_of
from cluster.log_lines import LogLine
from cluster.parallel import on_all
from cluster.plan import Member, Plan

TIMEOUT = 120.0
TIMEOUT_AFTER_FAILURE = 18.0  # a person waits, and has the failed phase's own evidence already


@dataclass(frozen=True)
class Collected:
    """The logs of all nodes; `skew` is {node: seconds ahead}, `names` {address or hostname: node}."""

    by_node: Mapping[str, NodeLogs] = field(default_factory=dict)
    skew: Mapping[str, float] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    unreachable: Mapping[str, str] = field(default_factory=dict)

    @property
    def lines(self) -> Iterable[LogLine]:
        """All of them, node by node; `diagnose` does not need them in time order."""
        yield from unreachable_lines(self.unreachable)
        yield from between_nodes(self.by_node, self.skew)
        for logs in self.by_node.values():
            yield from logs.lines

    def findings(self, signatures: Signatures) -> tuple[Finding, ...]:
        """What these logs show, the first cause first."""
        return diagnose(self.lines, signatures, self.skew, self.names)


def collect(
    plan: Plan,
    connections: Mapping[str, Connection],
    unreachable: Mapping[str, str],
    timeout: float = TIMEOUT,
) -> Collected:
    """The logs of every member that has a connection; a node whose line breaks counts as unreachable."""
    members = {member.name: member for member in plan.members if member.name in connections}
    answers = on_all(members, lambda member: _ask(plan, member, connections[member.name], timeout))
    lost = {name: str(answer) for name, answer in answers.items() if isinstance(answer, ConnectionLost)}
    found = {name: answer for name, answer in answers.items() if not isinstance(answer, ConnectionLost)}
    by_node = {name: logs for name, (logs, _) in found.items()}
    hostnames = {logs.hostname: name for name, logs in by_node.items() if logs.hostname}
    return Collected(
        by_node=by_node,
        skew={name: skew for name, (_, skew) in found.items()},
        names=hostnames | {member.address: member.name for member in plan.members},
        unreachable={**unreachable, **lost},
    )


def _ask(plan: Plan, member: Member, connection: Connection, timeout: float) -> tuple[NodeLogs, float]:
    """(the logs, seconds that the node's clock is ahead); what came until the time was up counts."""
    asked, seen = time.time(), list[str]()
    try:
        script = script_of(questions(plan, member))
        result = connection.run(("sh", "-s"), stdin=script, timeout=timeout, on_line=seen.append)
        output = "\n".join(["", *seen]) + result.stdout
    except CommandTimeout:
        output = "\n".join(["", *seen])
    answered = time.time()
    logs = read_answers(member, output, datetime.now(UTC))
    return logs, skew_of(logs, asked, answered)


def explain(
    plan: Plan, connections: Mapping[str, Connection], unreachable: Mapping[str, str]
) -> tuple[Finding, ...]:
    """Why a deployment failed, from the logs of its nodes, the first cause first; empty where nothing tells.

    Never raises, and ends within some 20 s: it comes after an error, which must not be lost.
    """
    try:
        collected = collect(plan, connections, unreachable, TIMEOUT_AFTER_FAILURE)
        return tuple(without_secrets(finding) for finding in collected.findings(packaged()))
    except Exception:  # a second failure would hide the first
        return ()
