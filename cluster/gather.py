"""Facts of all nodes at once, one round trip each. Read-only."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

from cluster.connection import Connection
from cluster.errors import ConnectError, ConnectionLost
from cluster.facts import Facts, facts_of, read_facts, script_of
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
    executor = ThreadPoolExecutor(max_workers=max(1, len(members)), thread_name_prefix="facts")
    try:
        futures = {m.name: executor.submit(_ask, plan, m, connections[m.name]) for m in members}
        wait(futures.values())
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
    lost = {name: str(future.exception()) for name, future in futures.items() if _lost(future)}
    return {name: future.result() for name, future in futures.items() if name not in lost}, lost


def _lost(future: Future[Facts]) -> bool:
    return isinstance(future.exception(), ConnectionLost)


def _ask(plan: Plan, member: Member, connection: Connection) -> Facts:
    facts = facts_of(plan, member)
    result = connection.run(("sh", "-s"), stdin=script_of(facts), timeout=TIMEOUT)
    return read_facts(facts, result.stdout)
