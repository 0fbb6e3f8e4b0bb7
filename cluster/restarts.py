"""Phases that start again what is there, all ranks together. Pure.

They are `up`'s own, of facts in which what has to be restarted does not stand: it is then removed and started
in the one order that there is. Ray goes on all nodes at once, so that the head's list has no dead nodes of
before, which would pass for joined until Ray notices.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from cluster import phases
from cluster.facts import Facts
from cluster.inventory.secrets import Secrets
from cluster.plan import Plan
from cluster.steps import Phase

ALL: tuple[str, ...] = ("ray", "serve")


def restart(
    plan: Plan,
    facts: Mapping[str, Facts],
    roles: Collection[str],
    secrets: Secrets = (),
    ignore: tuple[str, ...] = (),
    generation: int = 0,
) -> tuple[Phase, ...]:
    """What `up` would do, and the containers of these roles are started again though they stand.

    `("serve",)` leaves Ray as it is.
    """
    again = {name: fallen(fact, roles) for name, fact in facts.items()}
    return phases.up(plan, again, secrets, ignore, generation)


def fallen(facts: Facts, roles: Collection[str]) -> Facts:
    """A node's facts as if the containers of these roles were of no known inventory, and nothing answered."""
    if not roles:
        return facts
    containers = tuple(replace(c, digest="") if c.role in roles else c for c in facts.containers)
    return replace(
        facts,
        containers=containers,
        answer=None,
        ray_nodes=None if "ray" in roles else facts.ray_nodes,
    )


def counted_in_ray(facts: Mapping[str, Facts], addresses: Collection[str]) -> bool:
    """Whether Ray counts a node at one of these addresses, which have no part in the cluster (any more).

    vLLM would place ranks on it: Ray has to be started anew, on all nodes.
    """
    nodes = (node for fact in facts.values() for node in fact.ray_nodes or ())
    return any(node.alive and node.address in addresses for node in nodes)


def not_counted(facts: Facts, addresses: Collection[str]) -> Facts:
    """The facts of a node, but for what Ray says of nodes at these addresses."""
    if facts.ray_nodes is None:
        return facts
    return replace(facts, ray_nodes=tuple(n for n in facts.ray_nodes if n.address not in addresses))


def clear_others(whole: Plan, members: Collection[str], facts: Mapping[str, Facts]) -> tuple[Phase, ...]:
    """What is left of the cluster on nodes that have no part in it any more, gone: a head that was replaced
    must not go on serving. `whole` is `plan.with_others`.
    """
    return phases.down(whole, {name: fact for name, fact in facts.items() if name not in members})
