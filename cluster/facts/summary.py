"""Facts as a person reads them: one row a node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from cluster.facts.types import Facts
from cluster.plan import Member, Plan

GIBIBYTE = 1024**3


def columns_and_rows(
    plan: Plan, facts: Mapping[str, Facts]
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Columns without GPUs and HCAs where the plan wants none."""
    cuda = plan.runtime.device == "cuda"
    columns = ("node", "system", "engine", *(("GPUs", "driver", "HCAs") if cuda else ()))
    rows = tuple(_row(plan, member, facts[member.name]) for member in plan.members if member.name in facts)
    return (*columns, "ray", "vllm", "interface", "free memory", "clock"), rows


def _row(plan: Plan, member: Member, facts: Facts) -> tuple[str, ...]:
    versions = facts.versions
    gpus = (_gpus(facts), facts.gpus[0].driver if facts.gpus else "-", _hcas(facts))
    return (
        member.name,
        _system(facts),
        f"{plan.runtime.engine} {facts.engine_version or ''}".strip(),
        *(gpus if plan.runtime.device == "cuda" else ()),
        (versions.ray if versions else None) or "-",
        (versions.vllm if versions else None) or "-",
        _interface(member, facts),
        _memory(facts),
        f"{facts.clock_offset:+.2f} s" if facts.clock_offset is not None else "?",
    )


def _system(facts: Facts) -> str:
    if facts.system is None:
        return "?"
    return facts.system.os or f"Linux {facts.system.kernel}"


def _gpus(facts: Facts) -> str:
    kinds = Counter(
        (gpu.name.removeprefix("NVIDIA "), round(gpu.memory_total / GIBIBYTE)) for gpu in facts.gpus
    )
    return ", ".join(f"{number} × {name} {size} GiB" for (name, size), number in kinds.items()) or "none"


def _hcas(facts: Facts) -> str:
    rates = Counter(f"{port.rate:g} Gb/s" for hca in facts.hcas for port in hca.ports if port.active)
    return ", ".join(f"{number} × {rate}" for rate, number in rates.items()) or "none"


def _interface(member: Member, facts: Facts) -> str:
    for name, one in facts.interfaces.items():
        if member.address in one.addresses:
            return f"{name} (MTU {one.mtu})" if one.mtu is not None else name
    return "?"


def _memory(facts: Facts) -> str:
    if facts.system is None or facts.system.memory_available is None:
        return "?"
    return f"{facts.system.memory_available / GIBIBYTE:.0f} GiB"
