"""Facts of all nodes at once, one round trip each; nothing on them is changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from cluster.connection import Connection
from cluster.errors import ConnectError, ConnectionLost
from cluster.facts import Fact, Facts, facts_of, is_whole, read_facts, script_of, with_clock_offset
from cluster.parallel import on_all
from cluster.plan import Member, Plan

ATTEMPTS = 2
TIMEOUT = 300.0  # each fact has a limit of its own, see facts.script_of


FactsOf = Callable[[Plan, Member], tuple[Fact, ...]]


def gather_tolerantly(
    plan: Plan,
    connections: Mapping[str, Connection],
    which: FactsOf = facts_of,
    timeout: float = TIMEOUT,
) -> tuple[dict[str, Facts], dict[str, str]]:
    """({node name: Facts}, {node name: why its line broke}), in order of node rank."""
    members = [member for member in plan.members if member.name in connections]
    answers = on_all(
        {m.name: m for m in members}, lambda m: _ask(which(plan, m), connections[m.name], timeout)
    )
    lost = {name: str(answer) for name, answer in answers.items() if isinstance(answer, ConnectionLost)}
    return {name: answer for name, answer in answers.items() if isinstance(answer, Facts)}, lost


def gather(plan: Plan, connections: Mapping[str, Connection], which: FactsOf = facts_of) -> dict[str, Facts]:
    """{node name: Facts}. Raises ConnectError where a line breaks."""
    facts, lost = gather_tolerantly(plan, connections, which)
    if lost:
        raise ConnectError(lost, len(plan.members))
    return facts


def _ask(facts: tuple[Fact, ...], connection: Connection, timeout: float) -> Facts:
    """Raises ConnectionLost where the answer is cut off each time: a node that could not say what it has must
    not pass for one that has nothing.
    """
    for _ in range(ATTEMPTS):
        asked = time.time()
        result = connection.run(("sh", "-s"), stdin=script_of(facts), timeout=timeout)
        if is_whole(facts, result.stdout):
            return with_clock_offset(read_facts(facts, result.stdout), asked, time.time())
    raise ConnectionLost(f"its answer was cut off: {result.reason}")
