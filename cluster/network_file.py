"""The file network.env on nodes: what is chosen from their facts, beside what the inventory says. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cluster.choice import choose, network_env
from cluster.facts import Facts
from cluster.plan import Plan
from cluster.standing import NETWORK_ENV, Standing, has_network_env
from cluster.steps import Put, Run


def write(plan: Plan, facts: Mapping[str, Facts], now: Standing) -> Iterator[Put | Run]:
    """Files that differ, on the nodes whose GPU workers are to be started.

    It is in no digest, and stays as it is beside a model that serves: a port that went down must not stop it.
    """
    stays = now.ray if plan.uses_ray else now.serving
    choices = choose(plan, facts)
    for member in plan.members:
        content, there = network_env(choices[member.name]), facts[member.name].files
        if member.name in stays or (NETWORK_ENV not in there and not content):
            continue
        if not there or not has_network_env(facts[member.name], choices[member.name]):
            path = f"{member.folder}/{NETWORK_ENV}"
            yield Put(member.name, path, content) if content else Run(member.name, ("rm", "-f", path))
