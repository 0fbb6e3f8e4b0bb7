"""What runs against what ran when it served. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.errors import count
from cluster.facts import Container, Facts
from cluster.facts.text import mapping
from cluster.plan import Plan

ROLES = ("ray", "serve")


@dataclass(frozen=True)
class Drift:
    """One deviation; `kind` is for programs, `what` a sentence without the node's name."""

    node: str
    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.node}: {self.what}"


def baseline(facts: Facts) -> dict[str, Any]:
    """What of a node is compared later: its boot, its GPUs, its containers by role."""
    return {
        "boot_id": facts.system.boot_id if facts.system is not None else "",
        "gpus": [gpu.uuid for gpu in facts.gpus],
        "containers": {
            role: {"id": found.id, "started_at": found.started_at, "image": found.image}
            for role in ROLES
            if (found := facts.container(role)) is not None
        },
    }


def drift(plan: Plan, baselines: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Facts]) -> list[Drift]:
    """All deviations, by node in order of node rank; a node without facts is left out."""
    found: list[Drift] = []
    for member in plan.members:
        if member.name in facts:
            before = baselines.get(member.name, {})
            found += _of_node(plan, member.name, before, facts[member.name])
    return found


def _of_node(plan: Plan, node: str, before: Mapping[str, Any], now: Facts) -> Iterator[Drift]:
    if now.engine_error:
        yield Drift(node, "engine", f"{plan.runtime.engine}: {now.engine_error}")
        return
    if not before:
        yield Drift(node, "unknown", "nothing was noted of it when this generation served")
    boot = before.get("boot_id")
    if boot and now.system is not None and now.system.boot_id not in ("", boot):
        yield Drift(node, "rebooted", "it was rebooted since this generation served")
    yield from _gpus(node, before, now)
    for role in _roles(plan, node):
        yield from _container(node, role, mapping(mapping(before.get("containers")).get(role)), now)


def _gpus(node: str, before: Mapping[str, Any], now: Facts) -> Iterator[Drift]:
    known = before.get("gpus") or []
    if len(now.gpus) < len(known):
        there = {gpu.uuid for gpu in now.gpus}
        gone = ", ".join(uuid for uuid in known if uuid not in there)
        why = f" ({now.gpu_error})" if now.gpu_error else ""
        yield Drift(node, "gpus", f"{count(len(now.gpus), 'GPU')}, {len(known)} before; gone: {gone}{why}")


def _roles(plan: Plan, node: str) -> tuple[str, ...]:
    serves = node in {member.name for member in plan.servers}
    return (*(("ray",) if plan.uses_ray else ()), *(("serve",) if serves else ()))


def _container(node: str, role: str, before: Mapping[str, Any], now: Facts) -> Iterator[Drift]:
    found = now.container(role)
    if found is None:
        yield Drift(node, "gone", f"the {role} container is gone")
        return
    if not found.running:
        yield Drift(node, "exited", f"the {role} container {found.state}")
    if before:
        yield from _changed(node, role, before, found)


def _changed(node: str, role: str, before: Mapping[str, Any], found: Container) -> Iterator[Drift]:
    if before.get("image") and found.image and found.image != before["image"]:
        yield Drift(node, "image", f"the {role} container runs {found.image}, {before['image']} before")
    if found.id != before.get("id"):
        yield Drift(node, "replaced", f"the {role} container is another one, started at {found.started_at}")
    elif found.started_at != before.get("started_at"):
        times = f"at {found.started_at}, at {before.get('started_at')} before"
        yield Drift(node, "restarted", f"the {role} container was restarted: it started {times}")
