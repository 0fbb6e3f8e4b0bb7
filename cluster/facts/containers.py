"""Facts about a container engine: its containers, the image and what is in it, and what they answer."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from cluster.argv import docker
from cluster.facts.service import parse_answer, parse_last_words, parse_ray_nodes
from cluster.facts.text import json_list, mapping, whole
from cluster.facts.types import Container, Fact
from cluster.facts.versions import VERSIONS, parse_versions
from cluster.plan import Member, Plan
from cluster.steps import Result


def has(plan: Plan, _: Member) -> tuple[Fact, ...]:
    """Whether the engine answers, and the cluster's containers."""
    engine = plan.runtime.engine
    label = shlex.quote(f"label={docker.LABEL}cluster={plan.cluster}")
    version = "{{.Server.Version}}" if engine == "docker" else "{{.Client.Version}}"
    return (
        Fact("engine", f"{engine} version --format '{version}'", parse_engine),
        Fact(
            "containers",
            f"ids=$({engine} ps --all --quiet --filter {label}) || exit 1\n"
            f'if [ -z "$ids" ]; then echo "[]"; else {engine} inspect $ids; fi',
            parse_containers,
        ),
    )


def can(plan: Plan, member: Member) -> tuple[Fact, ...]:
    """Whether the image is there, and the versions in it.

    A container that runs from this very image is asked instead of starting one.
    """
    engine, image = plan.runtime.engine, plan.runtime.image or ""
    id_of_image = f"{engine} image inspect --format '{{{{.Id}}}}' {shlex.quote(image)}"
    id_in_use = f"{engine} inspect --format '{{{{.Image}}}}' {plan.main_container} 2>/dev/null"
    ask_container = shlex.join((engine, "exec", plan.main_container, "python3", "-c", VERSIONS))
    ask_image = shlex.join(docker.probe(plan, member, VERSIONS))
    return (
        Fact("image", id_of_image, parse_image),
        Fact(
            "versions",
            f"wanted=$({id_of_image} 2>/dev/null) || exit 0\n"
            f'if [ "$({id_in_use})" = "$wanted" ] && {ask_container} 2>/dev/null; then exit 0; fi\n'
            f"{ask_image}",
            parse_versions,
        ),
    )


def serves(plan: Plan, member: Member) -> tuple[Fact, ...]:
    """Who joined Ray, whether the model answers, and the last words of a server that is gone.

    Asked in the containers, and not through the files of whoever started them: another operator may have
    another home folder.
    """
    engine, programs = plan.runtime.engine, f"{docker.MOUNTED_AT}/on_node"
    enter = f"sh {docker.MOUNTED_AT}/enter.sh python3"
    nodes = f"{engine} exec {plan.ray_container} {enter} {programs}/ray_nodes.py {plan.ray_address}"
    ask = shlex.join(("--url", plan.url, "--model", plan.served_name, "--timeout", "20"))
    answer = f"{engine} exec {plan.serve_container} {enter} {programs}/completion.py {ask}"
    last_words = (
        f"state=$({engine} inspect --format '{{{{.State.Running}}}}' {plan.serve_container} 2>/dev/null)\n"
        f'[ "$state" != false ] || {engine} logs --timestamps --tail 400 {plan.serve_container} 2>&1'
    )
    return (
        *((Fact("ray_nodes", nodes, parse_ray_nodes),) if plan.uses_ray else ()),
        *((Fact("answer", answer, parse_answer),) if member.role == "head" else ()),
        *((Fact("last_words", last_words, parse_last_words),) if member in plan.servers else ()),
    )


def parse_engine(result: Result) -> dict[str, Any]:
    """`20.10.24`, or the engine's own complaint."""
    lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    version = lines[-1] if lines else ""
    if result.exit_code == 0 and re.fullmatch(r"\d+\.\d+[\w.+~-]*", version):
        return {"engine_version": version}
    return {"engine_error": lines[-1] if lines else "no answer"}


def parse_containers(result: Result) -> dict[str, Any]:
    """What `docker inspect` or `podman inspect` prints of the cluster's containers."""
    found = [_container(item) for item in json_list(result.stdout)]
    ours = tuple(container for container in found if container.role in ("ray", "serve", "probe"))
    # "could not ask" must not look like "nothing there": `down` would call it done.
    unknown = {"engine_error": result.reason} if result.exit_code != 0 else {}
    return {"containers": ours, **unknown}


def _container(item: Mapping[str, Any]) -> Container:
    state, labels = mapping(item.get("State")), mapping(mapping(item.get("Config")).get("Labels"))
    return Container(
        id=str(item.get("Id", ""))[:12],
        name=str(item.get("Name", "")).lstrip("/"),
        role=str(labels.get(f"{docker.LABEL}role", "")),
        node=str(labels.get(f"{docker.LABEL}node", "")),
        digest=str(labels.get(f"{docker.LABEL}digest", "")),
        image=str(item.get("Image", "")),
        port=str(labels.get(f"{docker.LABEL}port", "")),
        running=state.get("Running") is True,
        exit_code=whole(state.get("ExitCode")),
        oom_killed=state.get("OOMKilled") is True,
        started_at=str(state.get("StartedAt", "")),
    )


def parse_image(result: Result) -> dict[str, Any]:
    """`sha256:...`; absent where the node does not have the image."""
    found = re.search(r"^(sha256:)?[0-9a-f]{12,64}$", result.stdout, re.MULTILINE)
    return {"image_id": found.group(0)} if result.exit_code == 0 and found else {}
