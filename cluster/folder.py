"""What a member's folder should have in it, and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from cluster.facts import IGNORED, Facts
from cluster.inventory.secrets import Secrets
from cluster.plan import Member, Plan
from cluster.render import File, node_files, secrets_file
from cluster.standing import NETWORK_ENV, SECRETS, Standing, outdated_files, sha256
from cluster.steps import Put, Run

GENERATION = "generation"
COMPILED = "__pycache__"  # Python's own, beside the plugins where there are no containers


def write_generation(plan: Plan, facts: Mapping[str, Facts], now: Standing, number: int) -> Iterator[Put]:
    """The number that run_cluster.sh labels with, where something is to be started; 0: it stays as it is.

    It is in no digest.
    """
    content = f"{number}\n"
    for member in plan.members if number else ():
        there = facts[member.name].files.get(GENERATION)
        if _starts_something(plan, member, now) and there != sha256(content):
            yield Put(member.name, f"{member.folder}/{GENERATION}", content)


def write(plan: Plan, facts: Mapping[str, Facts], secrets: Secrets) -> Iterator[Put | Run]:
    """Files that are not there yet, or differ. Those that a killed command left half written go, and those
    that are rendered no more.
    """
    text = secrets_file(secrets)
    for member in plan.members:
        there, files = facts[member.name], node_files(plan, member)
        gone = _strays(files, there, bool(secrets))
        if gone:
            yield Run(member.name, ("rm", "-f", *(f"{member.folder}/{path}" for path in gone)))
        for file in outdated_files(files, there):
            yield Put(member.name, f"{member.folder}/{file.path}", file.content, file.mode)
        if secrets and there.files.get(SECRETS) != sha256(text):
            yield Put(member.name, f"{member.folder}/{SECRETS}", text, 0o600)


def _starts_something(plan: Plan, member: Member, now: Standing) -> bool:
    ray = plan.uses_ray and member.name not in now.ray
    return ray or (member in plan.servers and member.name not in now.serving)


def _strays(files: Iterable[File], there: Facts, with_secrets: bool) -> list[str]:
    beside = {NETWORK_ENV, IGNORED, GENERATION, *((SECRETS,) if with_secrets else ())}
    known = beside | {file.path for file in files}
    return [path for path in there.files if path not in known and COMPILED not in path.split("/")]
