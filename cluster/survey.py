"""Everything that is known before anything is done: facts of all nodes, and the network between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cluster import network
from cluster.checks import judge, preflight
from cluster.checks.reach import unreachable
from cluster.connection import Connection
from cluster.errors import Verdict
from cluster.facts import Facts, facts_of, without_hashes
from cluster.fleet import Fleet
from cluster.gather import gather_tolerantly
from cluster.measure import measure
from cluster.network import Matrix
from cluster.parallel import wait_for
from cluster.plan import Plan


@dataclass(frozen=True)
class Survey:
    """`facts` of the nodes that answered, why the others did not, and the network; None: not measured."""

    plan: Plan
    facts: Mapping[str, Facts]
    unreachable: Mapping[str, str]
    matrix: Matrix | None

    def of(self, plan: Plan) -> Survey:
        """What of it is about the members of another plan alone."""
        names = [member.name for member in plan.members]
        return Survey(
            plan,
            {name: self.facts[name] for name in names if name in self.facts},
            {name: self.unreachable[name] for name in names if name in self.unreachable},
            self.matrix.between(names) if self.matrix is not None else None,
        )

    def verdict(self, ignore: Iterable[str] = ()) -> Verdict:
        """All problems, judged. A measured MTU makes a merely different one no news."""
        measured = network.problems(self.plan, self.matrix) if self.matrix is not None else ()
        known = {problem.id for problem in measured}
        from_facts = [
            p for p in preflight(self.plan, self.facts) if p.id != "mtu-mismatch" or p.id not in known
        ]
        return judge((*unreachable(self.unreachable), *from_facts, *measured), ignore)


def survey(plan: Plan, lines: Fleet, quick: bool = False) -> Survey:
    """Ask all nodes and measure between them, at once. `quick`: without measuring, and without hashes.

    Nothing on the nodes is changed.
    """
    if quick:
        facts, lost = gather_tolerantly(plan, lines.connections, without_hashes)
        return Survey(plan, facts, {**lines.unreachable, **lost}, None)
    executor = ThreadPoolExecutor(max_workers=2)
    try:
        gathering = executor.submit(gather_tolerantly, plan, lines.connections, facts_of)
        measuring = executor.submit(measure, plan, lines.connections)
        wait_for((gathering, measuring))
        facts, lost = gathering.result()
        return Survey(plan, facts, {**lines.unreachable, **lost}, measuring.result())
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def measured(plan: Plan, connections: Mapping[str, Connection], facts: Mapping[str, Facts]) -> Survey:
    """The survey of facts that are there already, with the network measured now."""
    return Survey(plan, facts, {}, measure(plan, connections))
