"""One node as it is and as it should be, and a difference in words: who has it, why, what to do. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.doctor.redact import redacted_value
from cluster.errors import Problem, Severity, count
from cluster.facts import Facts
from cluster.plan import Member, Plan
from cluster.proof.attestation import Kind, Process

# What traffic between nodes depends on: here another value is an error, elsewhere a warning.
NETWORK = re.compile(r"(NCCL|GLOO|TP_SOCKET|UCX)_|(VLLM_HOST_IP|RAY_ADDRESS)$")
ORDER: tuple[Kind, ...] = ("rank", "server", "engine", "ray")


@dataclass(frozen=True)
class Node:
    """One node as it is and as it should be. `expected` has only what the node would tell of."""

    plan: Plan
    member: Member
    facts: Facts | None
    expected: Mapping[str, str]
    processes: tuple[Process, ...]
    of_head: Mapping[str, str]


def problem_of(
    node: Node,
    id_: str,
    name: str,
    processes: tuple[Process, ...],
    found: str,
    expected: str,
    value: str | None = None,
) -> Problem:
    matters = NETWORK.match(name) or name not in node.expected
    severity: Severity = "error" if matters and id_ != "env-unplanned" else "warning"
    return Problem(
        id_,
        node.member.name,
        f"{name} {found} in {named(processes)}",
        expected,
        _remedy(node, id_, name, processes, value),
        severity,
    )


def shown(name: str, value: str) -> str:
    """A value as a person may see it: quoted, and without what is a secret by its name or its form."""
    return repr(redacted_value(name, value))


def named(processes: tuple[Process, ...]) -> str:
    """`ray::RayWorkerProc (pid 812) and 3 more processes`: those that matter most first."""
    first, *others = sorted(processes, key=lambda process: ORDER.index(process.kind))
    if not others:
        return str(first)
    return f"{first} and {count(len(others), 'more process', 'more processes')}"


def _remedy(node: Node, id_: str, name: str, processes: tuple[Process, ...], value: str | None) -> str:
    """The likely reason, and what to do."""
    if id_ == "env-unplanned":
        meant = f"; if it is meant, set {name} in the inventory's env"
        return _remedy_for_unplanned(node, name, value) + meant
    if all(process.kind in ("rank", "engine") for process in processes) and node.plan.uses_ray:
        return (
            "Ray's own processes have it right, so vLLM changed it: its older executors copy the head's "
            "variables over those of the workers, but for the names in ray_non_carry_over_env_vars.json; set "
            f"{name} in nodes[].env, which lists it there, and run `clusterctl up`"
        )
    culprit = "an entrypoint, a wrapper of `ray` or a sitecustomize in the image or the mounts"
    if node.plan.runtime.engine == "process":
        culprit = "a wrapper of `ray` or a sitecustomize in the virtual environment"
    return (
        f"Something between run_cluster.sh and Ray changes it: {culprit}, or this Ray was started by hand or "
        "from another inventory; mend that and run `clusterctl down` and `clusterctl up`"
    )


def _remedy_for_unplanned(node: Node, name: str, value: str | None) -> str:
    if node.plan.runtime.engine == "process":
        return f"The node's login environment sets it (/etc/environment, a profile): take {name} out there"
    if node.facts is not None and node.facts.image_env.get(name) == value:
        return (
            f"The image's ENV sets it: override {name} in the inventory's env, or build the image without it"
        )
    where = "The image's ENV, its entrypoint or a wrapper"
    return f"{where} sets it, or an nccl.conf in /etc or the home folder: take {name} out there"
