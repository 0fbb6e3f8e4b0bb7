"""Facts of all nodes at once, one round trip each. Read-only."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.connection import Connection
from cluster.errors import ConnectError, ConnectionLost
from cluster.facts import Facts, facts_of, read_facts, script_of
from cluster.parallel import on_all
from cluster.plan import Member, Plan

TIMEOUT = 120.0


def gather(plan: Plan, connections: Mapping[str, Connection]) -> dict[str, Facts]:
    """{node name: Facts}. Raises ConnectError where a line breaks."""
    facts, lost = gather_tolerantly(plan, connections)
    if lost:
        raise ConnectError(lost, len(plan.members))
    return facts


def gather_tolerantly(
    plan: Plan, connections: Mapping[str, Connection]
) -> tuple[dict[str, Facts], dict[str, str]]:
    """({node name: Facts}, {node name: why its line broke}), in order of node rank."""
    members = [member for member in plan.members if member.name in connections]
    answers = on_all({m.name: m for m in members}, lambda m: _ask(plan, m, connections[m.name]))
    lost = {name: str(answer) for name, answer in answers.items() if isinstance(answer, ConnectionLost)}
    return {name: answer for name, answer in answers.items() if isinstance(answer, Facts)}, lost


def _ask(plan: Plan, member: Member, connection: Connection) -> Facts:
    facts = facts_of(plan, member)
    result = connection.run(("sh", "-s"), stdin=script_of(facts), timeout=TIMEOUT)
    return read_facts(facts, result.stdout)
