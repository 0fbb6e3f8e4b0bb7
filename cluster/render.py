"""Templates: a plan in, the text of files out. Pure but for reading the templates themselves."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import jinja2

from cluster import __version__
from cluster.argv import collectives, docker, ray, vllm
from cluster.on_node import PROCESS_ENGINE, PROOF, plugin_files, program
from cluster.plan import Member, Plan
from cluster.steps import Argv, Secret

HERE = Path(__file__).parent
# In a wheel the templates lie inside the package, in a checkout beside it.
SEARCH_PATHS = (HERE / "templates", HERE.parent / "templates")

# Where a node's own value has to win: vLLM copies the head's environment to every worker, and a
# variable that is unset there would take the head's (vllm/ray/ray_env.py; sparkrun#135).
NOT_CARRIED_OVER = (
    "GLOO_SOCKET_IFNAME",
    "NCCL_DEBUG_FILE",
    "NCCL_HOSTID",
    "NCCL_IB_DISABLE",
    "NCCL_IB_GID_INDEX",
    "NCCL_IB_HCA",
    "NCCL_SOCKET_IFNAME",
    "NCCL_TOPO_FILE",
    "TP_SOCKET_IFNAME",
    "UCX_NET_DEVICES",
    "VLLM_HOST_IP",
)


@dataclass(frozen=True)
class File:
    """A file of one node; `path` is relative to the cluster's folder on that node."""

    path: str
    content: str
    mode: int = 0o644


@dataclass(frozen=True)
class Digests:
    """What a container's label says about the spec it was started with; serve includes ray."""

    ray: str
    serve: str


def node_files(plan: Plan, member: Member) -> tuple[File, ...]:
    """All files of one node, `run_cluster.sh` first. Secrets are not among them."""
    programs = (
        "ray_nodes.py",
        "completion.py",
        "observe.py",
        *PROOF,
        *(PROCESS_ENGINE if _is_process(plan) else ()),
    )
    return (
        File("run_cluster.sh", _script(plan, member), 0o755),
        File("env", _env_file(member)),
        File("enter.sh", _render("enter.sh.j2", plan, member), 0o755),
        *((File("ray.sh", _ray_script(plan, member), 0o755),) if plan.uses_ray else ()),
        *((File("serve.sh", _serve_script(plan, member), 0o755),) if member in plan.servers else ()),
        File(
            "vllm/ray_non_carry_over_env_vars.json",
            json.dumps(sorted(_per_node_names(plan)), indent=1) + "\n",
        ),
        *(File(f"on_node/{name}", program(name)) for name in programs),
        *(File(f"plugins/{path}", content) for path, content in _plugins(plan)),
    )


def digests(plan: Plan, member: Member) -> Digests:
    """Digests of what this member's containers are started with."""
    of_ray = _sha256(
        _env_file(member),
        _ray_script(plan, member) if plan.uses_ray else "",
        _words(docker.ray_options(plan, member)),
        plan.runtime.image or plan.runtime.venv or "",
        _render("enter.sh.j2", plan, member),
        str(member.interface),
        *(content for _, content in _plugins(plan)),
    )
    serve_spec = _serve_script(plan, member) if member in plan.servers else ""
    return Digests(of_ray, _sha256(of_ray, serve_spec, _words(docker.serve_options(plan, member))))


def secrets_file(secrets: Iterable[tuple[str, Secret]]) -> Secret:
    """The text of `secrets.env`: NAME=value lines that enter.sh exports inside the container."""
    return Secret("".join(name + "=" + value + "\n" for name, value in secrets))


def _script(plan: Plan, member: Member) -> str:
    question = collectives.arguments(plan, member)
    return _render("run_cluster.sh.j2", plan, member, digests=digests(plan, member), question=question)


def _ray_script(plan: Plan, member: Member) -> str:
    return _render("ray.sh.j2", plan, member, command=ray.start(plan, member))


def _serve_script(plan: Plan, member: Member) -> str:
    return _render("serve.sh.j2", plan, member, command=vllm.serve(plan, member))


def _env_file(member: Member) -> str:
    return "".join(f"{name}={value}\n" for name, value in member.env)


def _per_node_names(plan: Plan) -> set[str]:
    """Variables that are a matter of each node: those above, and any that a node has of its own."""
    return {*NOT_CARRIED_OVER, *(name for member in plan.members for name in member.node.env)}


def _plugins(plan: Plan) -> tuple[tuple[str, str], ...]:
    return plugin_files() if plan.runtime.device == "cpu" else ()


def _is_process(plan: Plan) -> bool:
    return plan.runtime.engine == "process"


def _render(template: str, plan: Plan, member: Member, **more: object) -> str:
    return (
        _environment()
        .get_template(template)
        .render(plan=plan, member=member, docker=docker, version=__version__, **more)
    )


def filled(template: str, **words: object) -> str:
    """A template that is no node's, e.g. that of a unit."""
    return _environment().get_template(template).render(version=__version__, **words)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([str(path) for path in SEARCH_PATHS]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["sh"] = lambda value: shlex.quote(str(value))
    environment.filters["words"] = _words
    environment.filters["systemd_words"] = _systemd_words
    return environment


def _words(argv: Argv) -> str:
    """Words as lines of a shell command: the program is one line, each option with its values another."""
    lines: list[str] = []
    for word in argv:
        if lines and not word.startswith("-"):
            lines[-1] += f" {shlex.quote(word)}"
        else:
            lines.append(shlex.quote(word))
    return " \\\n    ".join(lines)


def _systemd_words(argv: Argv) -> str:
    """Words of ExecStart: quoted, with systemd's own `%` and `$` doubled (systemd.service(5))."""
    escaped = (word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") for word in argv)
    return " ".join(f'"{word.replace("$", "$$")}"' for word in escaped)


def _sha256(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
