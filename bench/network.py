"""What measuring the network costs: `cluster.measure.measure` over 2 and over 16 lab hosts.

    sudo .venv/bin/python bench/network.py [RUNS]

The two labs take turns within each round, so that whatever else the machine does hits both alike. Printed are
the median over all rounds in seconds, and the ratio to the first line's.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from cluster import fleet
from cluster.connection import Connection
from cluster.inventory import parse
from cluster.lab import lifecycle
from cluster.lab.lab_inventory import inventory_text
from cluster.lab.spec import LabSpec
from cluster.measure import measure
from cluster.plan import Plan, make_plan

SIZES = (2, 16)


@contextlib.contextmanager
def lab_of(nodes: int) -> Iterator[tuple[Plan, Mapping[str, Connection]]]:
    """Hosts without a container engine, and the open lines to them."""
    name = f"bench-{nodes}"
    try:
        lab = lifecycle.up(LabSpec(name, nodes, engine=False))
        inventory = parse(inventory_text(lab), "lab.yaml")
        with fleet.connect(inventory) as lines:
            yield make_plan(inventory), lines.connections
    finally:
        lifecycle.down(name)


def seconds(plan: Plan, connections: Mapping[str, Connection]) -> float:
    """Of one measurement, which must be complete to count."""
    started = time.perf_counter()
    measured = measure(plan, connections)
    taken = time.perf_counter() - started
    missing = [link for link in measured.links if link.bits_per_second is None]
    assert not missing, missing
    return taken


def main(runs: int) -> None:
    taken: dict[int, list[float]] = {nodes: [] for nodes in SIZES}
    with contextlib.ExitStack() as stack:
        labs = {nodes: stack.enter_context(lab_of(nodes)) for nodes in SIZES}
        for _ in range(runs):
            for nodes, (plan, connections) in labs.items():
                taken[nodes].append(seconds(plan, connections))
    base = statistics.median(taken[SIZES[0]])
    print(f"{'nodes':>5} {'median s':>9} {'ratio':>6}")
    for nodes, values in taken.items():
        median = statistics.median(values)
        print(f"{nodes:>5} {median:>9.2f} {median / base:>6.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
