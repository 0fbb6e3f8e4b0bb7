"""What a deployment stops, restarts and starts, in a sentence. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.facts import Facts
from cluster.plan import Plan
from cluster.standing import Standing

NAMES = {"ray": "Ray", "serve": "vLLM"}


@dataclass(frozen=True)
class Consequence:
    """Roles ("Ray", "vLLM") that run now and are restarted, and those that do not run and are started."""

    restarts: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()

    def __str__(self) -> str:
        """`restarts Ray and vLLM`, `restarts vLLM`, `starts Ray and vLLM`, `restarts nothing`."""
        parts = (("restarts", self.restarts), ("starts", self.starts))
        said = [f"{verb} {' and '.join(roles)}" for verb, roles in parts if roles]
        return ", ".join(said) or "restarts nothing"


def consequence(plan: Plan, facts: Mapping[str, Facts], now: Standing) -> Consequence:
    """What follows from what stands and may stay."""
    wanted = {
        "ray": [member.name for member in plan.members] if plan.uses_ray else [],
        "serve": [member.name for member in plan.servers],
    }
    stands = {"ray": now.ray, "serve": now.serving}
    to_start = [role for role, nodes in wanted.items() if not set(nodes) <= set(stands[role])]
    runs = {role for role in NAMES if any(fact.runs(role) for fact in facts.values())}
    return Consequence(
        restarts=tuple(NAMES[role] for role in to_start if role in runs),
        starts=tuple(NAMES[role] for role in to_start if role not in runs),
    )
