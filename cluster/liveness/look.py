"""From the facts of all nodes to one observation. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cluster.facts import Facts
from cluster.facts.text import json_objects, number, whole_or_none
from cluster.liveness.counters import counters
from cluster.liveness.model import Completion, Observation
from cluster.plan import Member, Plan
from cluster.steps import Result

# HTTP statuses of an engine that could not: what else is not 200 is a server that answers and will not.
ENGINE_FAILED = range(500, 503)


def observation(
    plan: Plan,
    facts: Mapping[str, Facts],
    unreachable: Mapping[str, str],
    completion: Completion | None,
    at: float,
) -> Observation:
    """What one look shows; `facts` are those of `facts.what_lives`, `unreachable` is {node: reason}."""
    silent = {
        name: f"{plan.runtime.engine}: {fact.engine_error}"
        for name, fact in facts.items()
        if fact.engine_error
    }
    known = {m.name: facts[m.name] for m in plan.members if m.name in facts and m.name not in silent}
    serve = known.get(plan.head.name, Facts()).container("serve")
    scrape = next((fact.scrape for fact in facts.values() if fact.scrape is not None), None)
    wanted = any(bool(fact.containers or fact.wanted) for fact in known.values())
    return Observation(
        at=at,
        head_answers=plan.head.name in known,
        wanted=wanted,
        broken=dict(_broken(known)),
        missing=dict(_missing(plan, known)) if wanted else {},
        unreachable={**unreachable, **silent},
        server=f"{serve.id} {serve.started_at}" if serve is not None and serve.running else "",
        looked=scrape is not None and scrape.tried,
        health=scrape.health if scrape is not None else None,
        closed=scrape is not None and scrape.health is None and "refused" in scrape.reason.lower(),
        reason=scrape.reason if scrape is not None else "nobody could be asked",
        counters=counters(scrape.metrics) if scrape is not None and scrape.metrics is not None else None,
        completion=completion,
    )


def completion(result: Result) -> Completion:
    """What became of the token that was asked for, from what `observe.py --ask` printed.

    Without its JSON the question was never put: the container is gone, or an older version made it.
    """
    for content in json_objects(result.stdout):
        if "status" in content:
            status, reason = whole_or_none(content["status"]), str(content.get("reason") or "")
            if status == 200:
                return Completion("answered", "", number(content.get("seconds")))
            return Completion("failed" if status is None or status in ENGINE_FAILED else "refused", reason)
    return Completion("lost", result.reason)


def _broken(known: Mapping[str, Facts]) -> Iterator[tuple[str, str]]:
    for name, fact in known.items():
        ended = [c for c in fact.containers if c.role != "probe" and not fact.runs(c.role)]
        if ended:
            yield name, ", ".join(f"the {c.role} container {c.state}" for c in ended)


def _missing(plan: Plan, known: Mapping[str, Facts]) -> Iterator[tuple[str, str]]:
    for name, fact in known.items():
        absent = [role for role in _roles(plan, plan.member(name)) if fact.container(role) is None]
        if absent:
            programs = " and ".join("Ray" if role == "ray" else "vLLM" for role in absent)
            yield name, f"{programs} {'has' if len(absent) == 1 else 'have'} not been started"


def _roles(plan: Plan, member: Member) -> tuple[str, ...]:
    return (*(("ray",) if plan.uses_ray else ()), *(("serve",) if member in plan.servers else ()))
