"""HCAs that differ between nodes: NCCL pairs them one by one, and falls back to TCP where one has none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cluster.checks.between import differ
from cluster.choice import Choice, lacking
from cluster.errors import Problem
from cluster.facts import Facts
from cluster.inventory.model import RDMA
from cluster.plan import Plan

Choices = Mapping[str, Choice]


def problems(plan: Plan, facts: Mapping[str, Facts], choices: Choices) -> Iterator[Problem]:
    """All that differs: whether nodes have HCAs in common, how many and how fast, and their rails."""
    without = lacking(plan, facts)
    if plan.require in RDMA:
        yield from _required(plan, without)
    elif len(without) < len(choices):
        yield from _without(facts, without, choices)
    if not without:
        yield from _counts(facts, choices)
        yield from _unmatched(choices)


def _required(plan: Plan, without: Mapping[str, str]) -> Iterator[Problem]:
    for name, what in without.items():
        yield Problem(
            "rdma-missing",
            name,
            what,
            f"HCAs, as network.require is {plan.require}",
            f"Run `ibstat` (or `rdma link`) on {name}; or set network.require to any or socket",
        )


def _without(facts: Mapping[str, Facts], without: Mapping[str, str], choices: Choices) -> Iterator[Problem]:
    """Some nodes have what others lack. Nodes without GPUs that are known count for nothing."""
    has = next(name for name in choices if name not in without)
    for name, what in without.items():
        if facts[name].gpus:
            yield Problem(
                "hca-differs",
                name,
                f"{what}, so no HCAs are chosen and NCCL is left to itself",
                f"what {has} has",
                f"Run `ibstat` (or `rdma link`) on {name}; to have TCP everywhere, set network.hcas to none",
                "warning",
            )


def _counts(facts: Mapping[str, Facts], choices: Choices) -> Iterator[Problem]:
    found = {name: _ports(choice, facts[name]) for name, choice in choices.items()}
    remedy = "Run `ibstat` on both; `clusterctl verify INVENTORY --explain` says why each was taken or not"
    yield from differ(found, "hca-differs", "HCA ports for NCCL:", remedy, "warning")


def _ports(choice: Choice, facts: Facts) -> str | None:
    """`8 (400 Gb/s)` of those that the node would use seen alone; None without GPUs, where none count."""
    rates = [f"{port.rate:g} Gb/s" for port in choice.before_rails]
    listed = f" ({', '.join(sorted(set(rates)))})" if rates else ""
    return f"{len(rates)}{listed}" if facts.gpus else None


def _unmatched(choices: Choices) -> Iterator[Problem]:
    name, warning = next(((name, c.warning) for name, c in choices.items() if c.warning), ("", ""))
    if warning:
        yield Problem(
            "hca-rails",
            name,
            warning,
            "the same names, or as many HCAs, on all nodes",
            "Name as many HCAs on each node, whose devices are in one order (nodes[].hcas); where every HCA "
            "reaches every other, NCCL_CROSS_NIC: 1 in network.nccl_env lets NCCL cross rails",
            "warning",
        )
