"""Facts about a container engine: its containers, the image and what is in it, and what they answer."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from cluster.argv import docker
from cluster.facts import inside
from cluster.facts.service import (
    KV_CACHE,
    parse_answer,
    parse_kv_cache,
    parse_last_words,
    parse_ray_nodes,
    parse_scrape,
)
from cluster.facts.system import disks_command, parse_disks
from cluster.facts.text import json_list, json_objects, json_or_none, mapping, texts, whole
from cluster.facts.types import Container, EngineSetup, Fact
from cluster.plan import Member, Plan
from cluster.render import digests
from cluster.steps import Argv, Result


def has(plan: Plan, _: Member) -> tuple[Fact, ...]:
    """Whether the engine answers, and the cluster's containers."""
    engine = plan.runtime.engine
    label = shlex.quote(f"label={docker.LABEL}cluster={plan.cluster}")
    version = "{{.Server.Version}}" if engine == "docker" else "{{.Client.Version}}"
    return (
        Fact("engine", f"{engine} version --format '{version}'", parse_engine),
        Fact("ids", _ids(engine, label), parse_ids, variable=IDS),
        Fact("containers", f"{engine} inspect ${IDS}", parse_containers, needs=IDS),
    )


# The ids of this cluster's containers: where there are none, nothing is asked in them, as each call of the
# engine's client takes some 30 ms.
IDS = "CLUSTERCTL_CONTAINERS"


def _ids(engine: str, label: str) -> str:
    """Ids alone: the engine's client may have warnings to print beside them."""
    ask = f"{engine} ps --all --quiet --filter {label}"
    return (
        f'said=$({ask} 2>&1) || {{ echo "$said"; exit 1; }}\necho "$said" | grep -xE "[0-9a-f]{{12,64}}" || :'
    )


def _missing(member: Member) -> str:
    """The sources of mounts that are not there."""
    sources = shlex.join(mount.split(":")[0] for mount in member.mounts)
    return f'for source in {sources}; do [ -e "$source" ] || echo "missing: $source"; done'


def _names(plan: Plan) -> str:
    """The containers that bear our names, each with our label, if it has it."""
    wanted = f"name=^/?({plan.ray_container}|{plan.serve_container})$"
    label = f'{{{{.Label "{docker.LABEL}cluster"}}}}'
    return shlex.join(
        (plan.runtime.engine, "ps", "--all", "--filter", wanted, "--format", f"{{{{.Names}}}} {label}")
    )


def can(plan: Plan, member: Member, hashing: bool) -> tuple[Fact, ...]:
    """Whether the image is there, what is in it, how the engine is set up, and the disks."""
    engine, image = plan.runtime.engine, shlex.quote(plan.runtime.image or "")
    parts = ",".join(f"{{{{json {part}}}}}" for part in (".Config", ".RootFS.Layers"))
    content = f"{engine} image inspect --format '{{{{.Id}}}}{{{{println}}}}[{parts}]' {image}"
    return (
        Fact("name_conflicts", _names(plan), parse_name_conflicts),
        *((Fact("mounts", _missing(member), parse_mounts),) if member.mounts else ()),
        Fact("image", content, parse_image),
        Fact("engine_setup", f"{engine} info --format '{{{{json .}}}}'", parse_engine_setup, variable=SETUP),
        Fact("disks", ROOT + disks_command({"engine": '"${root:-/var/lib}"', **_cache(member)}), parse_disks),
        inside_fact(plan, member, hashing),
    )


def knows_model(plan: Plan, member: Member) -> tuple[Fact, ...]:
    """What a running head's container says of the model; none is started for it."""
    fact = replace(inside_fact(plan, member, hashing=False), needs=IDS)
    return (fact,) if member.role == "head" else ()


def inside_fact(plan: Plan, member: Member, hashing: bool) -> Fact:
    """What vLLM would find. A container that was started as one would be today is asked instead."""
    engine, question = plan.runtime.engine, inside.question(plan, hashing)
    digest = digests(plan, member).ray if plan.uses_ray else digests(plan, member).serve
    label = f'{{{{index .Config.Labels "{docker.LABEL}digest"}}}}'
    started_as = f"{engine} inspect --format '{{{{.Image}}}} {label}' {plan.main_container} 2>/dev/null"
    ask_container = shlex.join((engine, "exec", plan.main_container, "python3", *question))
    return Fact(
        "inside",
        f"wanted=$({_id_of_image(plan)} 2>/dev/null) || exit 0\n"
        f'if [ -n "${IDS}" ] && [ "$({started_as})" = "$wanted {digest}" ] &&\n'
        f"{ask_container} 2>/dev/null; then exit 0; fi\n"
        f"{docker.probe_on_node(plan, member, question)}",
        inside.parse_inside,
    )


def _id_of_image(plan: Plan) -> str:
    image = shlex.quote(plan.runtime.image or "")
    return f"{plan.runtime.engine} image inspect --format '{{{{.Id}}}}' {image}"


# Variables of an image that say what is in it; others may be anything, also secrets.
TELLING = ("CUDA_VERSION", "NVIDIA_REQUIRE_CUDA", "NCCL_VERSION", "PYTORCH_VERSION")
PODMAN_SECURITY = {"rootless": "name=rootless", "selinuxEnabled": "name=selinux"}


def _cache(member: Member) -> dict[str, str]:
    """Where the node has the container's Hugging Face cache; without a mount it is on the engine's disk."""
    cache = PurePosixPath(dict(member.env).get("HF_HOME", "/root/.cache/huggingface"))
    for mount in member.mounts:
        source, target = mount.split(":")[:2]
        if cache.is_relative_to(target):
            return {"cache": shlex.quote(source)}
    return {}


SETUP = "CLUSTERCTL_ENGINE"
# DockerRootDir of `docker info`, graphRoot of `podman info`.
ROOT = """\
root=$(printf '%s' "$CLUSTERCTL_ENGINE" |
  sed -n 's/.*"\\(DockerRootDir\\|graphRoot\\)": *"\\([^"]*\\)".*/\\2/p')
"""


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
    kv_cache = f"{engine} logs {plan.serve_container} 2>&1 | {KV_CACHE}"
    return (
        *((Fact("ray_nodes", nodes, parse_ray_nodes, needs=IDS),) if plan.uses_ray else ()),
        *((Fact("answer", answer, parse_answer, needs=IDS),) if member.role == "head" else ()),
        *((Fact("kv_cache", kv_cache, parse_kv_cache, needs=IDS),) if member.role == "head" else ()),
        *((Fact("last_words", last_words, parse_last_words, needs=IDS),) if member in plan.servers else ()),
    )


def scrape(plan: Plan, member: Member) -> Fact:
    """What the server says of itself, asked in a container of this node."""
    # It ends by itself after 10 s; before Docker 23 `exec` may not, where its container ends beside it
    # (moby#44892), which is when a look is wanted most.
    ask = shlex.join(("timeout", "-k", "1", "12", *observe(plan, member)))
    return Fact("scrape", ask, parse_scrape, needs=IDS)


def observe(plan: Plan, member: Member, *words: str) -> Argv:
    """on_node/observe.py in the server's container, or in Ray's where another node has the server."""
    name = plan.serve_container if member in plan.servers else plan.main_container
    at = docker.MOUNTED_AT
    program = ("python3", f"{at}/on_node/observe.py", plan.url, *words)
    return (plan.runtime.engine, "exec", name, "sh", f"{at}/enter.sh", *program)


def parse_engine(result: Result) -> dict[str, Any]:
    """`20.10.24`, or the engine's own complaint."""
    lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    versions = [line for line in lines if re.fullmatch(r"\d+\.\d+[\w.+~-]*", line)]
    if result.exit_code == 0 and versions:
        return {"engine_version": versions[0]}
    return {"engine_error": lines[-1] if lines else "no answer"}


def parse_ids(result: Result) -> dict[str, Any]:
    """Nothing but the engine's complaint: "could not ask" must not look like "nothing there"."""
    return {"engine_error": result.reason} if result.exit_code != 0 else {}


def parse_containers(result: Result) -> dict[str, Any]:
    """What `docker inspect` or `podman inspect` prints of the cluster's containers."""
    found = [_container(item) for item in json_list(result.stdout)]
    ours = tuple(container for container in found if container.role in ("ray", "serve", "probe"))
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
        generation=str(labels.get(f"{docker.LABEL}generation", "")),
    )


def parse_mounts(result: Result) -> dict[str, Any]:
    """`missing: PATH` lines."""
    return {"missing_mounts": tuple(re.findall(r"^missing: (.+)$", result.stdout, re.MULTILINE))}


def parse_name_conflicts(result: Result) -> dict[str, Any]:
    """Names without a label behind them."""
    if result.exit_code != 0:
        return {}
    lines = [line.split() for line in result.stdout.splitlines() if line.startswith("clusterctl-")]
    return {"name_conflicts": tuple(words[0] for words in lines if len(words) == 1)}


def parse_image(result: Result) -> dict[str, Any]:
    """`sha256:...`, then its configuration and layers as JSON; absent where the image is not there."""
    found = re.search(r"^(sha256:)?[0-9a-f]{12,64}$", result.stdout, re.MULTILINE)
    if result.exit_code != 0 or not found:
        return {}
    content = next((json_or_none(line) for line in result.stdout.splitlines() if line.startswith("[")), None)
    config, layers = content if isinstance(content, list) and len(content) == 2 else ({}, [])
    variables = texts(mapping(config).get("Env"))
    starts = [mapping(config).get(key) for key in ("Entrypoint", "Cmd", "WorkingDir", "User")]
    return {
        "image_id": found.group(0),
        "image_content": _digest([texts(layers), variables, starts]) if texts(layers) else None,
        "image_env": {
            name: value
            for name, _, value in (text.partition("=") for text in variables)
            if name in TELLING or name.startswith(("NCCL_", "GLOO_"))
        },
    }


def _digest(content: list[Any]) -> str:
    """To compare by: variables may hold secrets, and facts are printed."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def parse_engine_setup(result: Result) -> dict[str, Any]:
    """What `docker info` or `podman info` prints as JSON."""
    for content in json_objects(result.stdout):
        if result.exit_code != 0:
            break
        store = mapping(content.get("store"))  # podman's, as is host
        security = mapping(mapping(content.get("host")).get("security"))
        return {
            "engine_setup": EngineSetup(
                storage_driver=str(content.get("Driver") or store.get("graphDriverName") or ""),
                root=str(content.get("DockerRootDir") or store.get("graphRoot") or ""),
                runtimes=tuple(sorted(str(name) for name in mapping(content.get("Runtimes")))),
                security=(
                    *texts(content.get("SecurityOptions")),
                    *(word for key, word in PODMAN_SECURITY.items() if security.get(key) is True),
                ),
            )
        }
    return {}
