"""What of a plan is already so on the nodes, and may stay. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.choice import Choice, choose, network_env
from cluster.facts import Container, Facts
from cluster.inventory.secrets import Secrets
from cluster.join import why_not_joined
from cluster.plan import Plan
from cluster.render import File, digests, secrets_file

SECRETS, NETWORK_ENV = "secrets.env", "network.env"


@dataclass(frozen=True)
class Standing:
    """What stands and may stay: names of nodes. `outdated` containers have to go first."""

    ray: frozenset[str]
    serving: frozenset[str]
    answered: bool
    outdated: Mapping[str, tuple[Container, ...]]


def standing(plan: Plan, facts: Mapping[str, Facts], secrets: Secrets) -> Standing:
    ray = frozenset(_ray_that_stands(plan, facts, secrets)) if plan.uses_ray else frozenset()
    ray_complete = not plan.uses_ray or len(ray) == len(plan.members)
    serving = frozenset(_vllm_that_stands(plan, facts, secrets)) if ray_complete else frozenset()
    if len(serving) < len(plan.servers):
        serving = frozenset()  # the ranks of one server live and die together
        ray = _ray_of_this_network(plan, facts, ray)
    answer = facts[plan.head.name].answer
    return Standing(
        ray=ray,
        serving=serving,
        answered=bool(serving) and answer is not None and answer.text is not None,
        outdated={
            name: tuple(
                container
                for container in fact.containers
                if (container.role == "ray" and name not in ray)
                or (container.role == "serve" and name not in serving)
                or (container.role == "probe" and not container.running)  # of a command that was killed
            )
            for name, fact in facts.items()
        },
    )


def _ray_that_stands(plan: Plan, facts: Mapping[str, Facts], secrets: Secrets) -> Iterable[str]:
    """Workers stand only under a head that stands; each by its digest and by being alive in Ray."""
    alive = facts[plan.head.name].ray_nodes
    for member in plan.members:
        stands = _runs(facts[member.name], "ray", digests(plan, member).ray, secrets)
        if stands and alive is not None and why_not_joined(plan, member, alive) is None:
            yield member.name
        elif member.role == "head":
            return


def _ray_of_this_network(plan: Plan, facts: Mapping[str, Facts], ray: frozenset[str]) -> frozenset[str]:
    """Ray that was started with the HCAs that would be chosen today.

    They are chosen over all nodes, so they have to be of one choice; a model that serves is left as it is.
    """
    choices = choose(plan, facts)
    same = frozenset(name for name in ray if has_network_env(facts[name], choices[name]))
    return same if plan.head.name in same else frozenset()


def outdated_files(files: Iterable[File], facts: Facts) -> tuple[File, ...]:
    """Of the files that a node gets (render.node_files), those that are not there yet, or differ."""
    return tuple(file for file in files if facts.files.get(file.path) != sha256(file.content))


def has_network_env(facts: Facts, choice: Choice) -> bool:
    """Whether a node's network.env says what the choice does."""
    return _file_says(facts, NETWORK_ENV, network_env(choice))


def _vllm_that_stands(plan: Plan, facts: Mapping[str, Facts], secrets: Secrets) -> Iterable[str]:
    for member in plan.servers:
        if _runs(facts[member.name], "serve", digests(plan, member).serve, secrets):
            yield member.name


def _runs(facts: Facts, role: str, digest: str, secrets: Secrets) -> bool:
    """Whether a container runs as this inventory would start it today."""
    container = facts.container(role)
    if container is None or not container.running or container.digest != digest:
        return False
    rebuilt = facts.image_id is not None and container.image not in ("", facts.image_id)
    return not rebuilt and _same_secrets(facts, secrets)


def _same_secrets(facts: Facts, secrets: Secrets) -> bool:
    return _file_says(facts, SECRETS, secrets_file(secrets))


def _file_says(facts: Facts, path: str, content: str) -> bool:
    """Whether a file has this content; none is there where there is nothing to say."""
    if not facts.files:
        return True  # another operator started it, from a home folder of their own
    return facts.files.get(path) == (sha256(content) if content else None)


def sha256(text: str) -> str:
    """As `sha256sum` prints it."""
    return hashlib.sha256(text.encode()).hexdigest()
