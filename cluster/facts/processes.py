"""Facts about the engine `process`: what a container engine says, where there are only processes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from cluster.argv import docker
from cluster.argv.node_script import script
from cluster.facts import inside
from cluster.facts.service import (
    KV_CACHE,
    parse_answer,
    parse_kv_cache,
    parse_last_words,
    parse_ray_nodes,
    parse_scrape,
)
from cluster.facts.system import HUGGING_FACE, disks_command, parse_disks
from cluster.facts.text import json_list, mapping, whole
from cluster.facts.types import Container, Fact
from cluster.plan import Member, Plan
from cluster.steps import Argv, Result


def has(plan: Plan, member: Member) -> tuple[Fact, ...]:
    """The cluster's processes."""
    folder = f'"$HOME"/{shlex.quote(member.folder)}'
    inspect = "python3 -B -m on_node.processes inspect --dir processes"
    return (Fact("containers", f"{_path(plan)}cd {folder} && {inspect}", parse_processes),)


def can(plan: Plan, member: Member, hashing: bool) -> tuple[Fact, ...]:
    """What is in the virtual environment, and the disks."""
    return (
        inside_fact(plan, member, hashing),
        Fact("disks", disks_command({"cache": HUGGING_FACE}), parse_disks),
    )


def knows_model(plan: Plan, member: Member) -> tuple[Fact, ...]:
    """What the head's environment says of the model."""
    return (inside_fact(plan, member, hashing=False),) if member.role == "head" else ()


def inside_fact(plan: Plan, member: Member, hashing: bool) -> Fact:
    """What the environment's Python finds, with the inventory's variables."""
    variables = (f"{name}={value}" for name, value in member.env)
    ask = shlex.join(("env", *variables, "python3", *inside.question(plan, hashing)))
    return Fact("inside", f"{_path(plan)}{ask}", inside.parse_inside)


def serves(plan: Plan, member: Member) -> tuple[Fact, ...]:
    """Who joined Ray, whether the model answers, and the last words of a server that is gone."""
    asks = f'sh "$HOME"/{shlex.quote(member.folder)}/run_cluster.sh'
    kv_cache = f"{asks} logs serve | {KV_CACHE}"
    last_words = f"{asks} running serve || {asks} logs serve --tail 400"
    return (
        *((Fact("ray_nodes", f"{asks} nodes", parse_ray_nodes),) if plan.uses_ray else ()),
        *((Fact("answer", f"{asks} ask --timeout 20", parse_answer),) if member.role == "head" else ()),
        *((Fact("kv_cache", kv_cache, parse_kv_cache),) if member.role == "head" else ()),
        *((Fact("last_words", last_words, parse_last_words),) if member in plan.servers else ()),
    )


def scrape(plan: Plan, member: Member) -> Fact:
    """What the server says of itself."""
    return Fact("scrape", shlex.join(observe(plan, member)), parse_scrape)


def observe(_: Plan, member: Member, *words: str) -> Argv:
    """on_node/observe.py beside the server."""
    return script(member, "observe", *words)


def _path(plan: Plan) -> str:
    venv = plan.runtime.venv
    return f"PATH={shlex.quote(venv + '/bin')}:$PATH; export PATH; " if venv else ""


def parse_processes(result: Result) -> dict[str, Any]:
    """What `processes.py inspect` prints."""
    return {"containers": tuple(_process(item) for item in json_list(result.stdout))}


def _process(item: Mapping[str, Any]) -> Container:
    labels = mapping(item.get("labels"))
    return Container(
        id=str(item.get("name", "")),
        name=str(item.get("name", "")),
        role=str(labels.get(f"{docker.LABEL}role", "")),
        node=str(labels.get(f"{docker.LABEL}node", "")),
        digest=str(labels.get(f"{docker.LABEL}digest", "")),
        running=item.get("running") is True,
        exit_code=whole(item.get("exit_code")),
        oom_killed=item.get("oom_killed") is True,
        started_at=str(item.get("started_at") or ""),
        generation=str(labels.get(f"{docker.LABEL}generation", "")),
    )
