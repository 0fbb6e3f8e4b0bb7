"""The file network.env on nodes: what is chosen from their facts, beside what the inventory says. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cluster.choice import choose, network_env
from cluster.facts import Facts
from cluster.plan import Plan
from cluster.standing import Standing, sha256
from cluster.steps import Put, Run

NETWORK_ENV = "network.env"


def write(plan: Plan, facts: Mapping[str, Facts], now: Standing) -> Iterator[Put | Run]:
    """Files that differ, on the nodes whose GPU workers are to be started.

    It is in no digest, and stays as it is beside containers that stay: a port that went down must not stop a
    model that serves, and a server that joins a running Ray has the variables of Ray's workers.
    """
    stays = now.ray if plan.uses_ray else now.serving
    choices = choose(plan, facts)
    for member in plan.members:
        path, there = f"{member.folder}/{NETWORK_ENV}", facts[member.name].files.get(NETWORK_ENV)
        content = network_env(choices[member.name])
        if member.name in stays or there == (sha256(content) if content else None):
            continue
        yield Put(member.name, path, content) if content else Run(member.name, ("rm", "-f", path))
