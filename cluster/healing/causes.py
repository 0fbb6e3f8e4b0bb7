"""What is wrong with a cluster that should serve, and which node's fault it is. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cluster.facts import Facts, RayNode
from cluster.health import health
from cluster.join import why_not_joined
from cluster.plan import Member, Plan


@dataclass(frozen=True)
class Cause:
    """`why` are sentences, the first names the cause.

    `unusable` are nodes on which nothing can be started now, {name: reason}; `suspects` those whose part
    ended by itself, and took the others along.
    """

    why: tuple[str, ...]
    unusable: Mapping[str, str] = field(default_factory=dict)
    suspects: tuple[str, ...] = ()

    @property
    def blamed(self) -> str:
        """The first node whose fault it is; empty where nobody's."""
        return next(iter((*self.unusable, *self.suspects)), "")

    def of(self, node: str) -> str:
        """What is said of a node; empty where nothing is."""
        said = (
            sentence.removeprefix(f"{node}: ") for sentence in self.why if sentence.startswith(f"{node}: ")
        )
        return self.unusable.get(node) or next(said, "")


@dataclass(frozen=True)
class Nothing:
    """Nothing to heal, and why: it serves, it is starting, it was never started."""

    why: str
    serves: bool = False
    starting: bool = False


def cause(
    plan: Plan,
    facts: Mapping[str, Facts],
    unreachable: Mapping[str, str],
    meant_to_run: bool,
    seen: tuple[str, ...] = (),
    seen_by: str = "",
    taken_down: bool = False,
) -> Cause | Nothing:
    """Why the cluster does not serve, or why there is nothing to heal.

    `seen` are reasons of who watched it over time (wedged: no single look shows that); `meant_to_run`
    whether a generation was put there and not taken down, `taken_down` whether that is the last that was
    noted: a cluster of which nothing was ever noted is known by its containers. A node that cannot be reached
    from here is no cause while the model answers and Ray counts it: the operator's own line may be what is
    broken. Nor is a head whose server another node sees answer: `seen_by` is that node.
    """
    found = health(plan, facts, unreachable)
    head = facts.get(plan.head.name, Facts())
    unusable = dict(_unusable(plan, facts, unreachable))
    served = head.answer is not None and head.answer.text is not None
    if not seen and served and all(_counts(plan, member, facts) for member in plan.members):
        return Nothing(f"{plan.served_name} is serving on {plan.url}/v1", serves=True)
    if not seen and seen_by and plan.head.name in unreachable:
        away = f"{plan.head.name} cannot be reached from here ({_first(unreachable[plan.head.name])})"
        return Nothing(f"{away}, but {seen_by} sees its server answer; heal from where it can be reached")
    left = any(fact.containers for fact in facts.values())
    if not meant_to_run and (taken_down or not left):
        what = "it was taken down; what is left of it `clusterctl down` removes"
        return Nothing(what if left else "nothing of this cluster runs; `clusterctl up` starts it")
    if not seen and found.state == "starting" and not unusable:
        return Nothing(
            "vLLM is starting and nothing is missing; `clusterctl status` looks again", starting=True
        )
    missing = (s for s in found.missing if s.partition(":")[0] not in unusable)
    said = dict.fromkeys((*seen, *_said(unusable), *missing))
    return Cause(
        tuple(said) or ("nothing of it runs, and nobody has taken it down",),
        unusable,
        tuple(_suspects(plan, facts, unusable)),
    )


def _first(text: str) -> str:
    return text.splitlines()[0] if text else ""


def _said(unusable: Mapping[str, str]) -> Iterator[str]:
    return (f"{name}: {reason}" for name, reason in unusable.items())


def _unusable(
    plan: Plan, facts: Mapping[str, Facts], unreachable: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    for member in plan.members:
        if member.name in unreachable:
            yield member.name, f"gone: {_first(unreachable[member.name])}"
        elif facts[member.name].engine_error:
            yield member.name, f"{plan.runtime.engine} does not work: {facts[member.name].engine_error}"


def _counts(plan: Plan, member: Member, facts: Mapping[str, Facts]) -> bool:
    """Whether a member takes part: its container runs, and Ray counts it alive with its GPUs."""
    fact = facts.get(member.name)
    if fact is not None and not fact.engine_error and not fact.runs("ray" if plan.uses_ray else "serve"):
        return False
    return not plan.uses_ray or why_not_joined(plan, member, _ray_nodes(facts, plan)) is None


def _ray_nodes(facts: Mapping[str, Facts], plan: Plan) -> tuple[RayNode, ...]:
    head = facts.get(plan.head.name, Facts())
    return next((fact.ray_nodes for fact in (head, *facts.values()) if fact.ray_nodes), ())


def _suspects(plan: Plan, facts: Mapping[str, Facts], unusable: Mapping[str, str]) -> Iterator[str]:
    """Those whose container ended first. Without the head's Ray all others end too, so it stands alone."""
    if plan.head.name in unusable:
        return
    role = "ray" if plan.uses_ray else "serve"
    ended = [m.name for m in plan.members if m.name in facts and not facts[m.name].runs(role)]
    if plan.uses_ray and plan.head.name in ended:
        yield plan.head.name
        return
    left = () if not plan.uses_ray else _left_ray(plan, facts)
    yield from (name for name in dict.fromkeys((*ended, *left)) if name not in unusable)


def _left_ray(plan: Plan, facts: Mapping[str, Facts]) -> Iterator[str]:
    """Workers whose container runs, and which Ray on the head does not count any more."""
    head = facts.get(plan.head.name, Facts())
    for member in plan.workers:
        if (
            head.ray_nodes
            and member.name in facts
            and why_not_joined(plan, member, head.ray_nodes) is not None
        ):
            yield member.name
