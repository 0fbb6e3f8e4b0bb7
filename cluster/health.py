"""What state a cluster is in, from facts. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from cluster.facts import Facts, RayNode
from cluster.join import why_not_joined
from cluster.plan import Member, Plan

State = Literal["serving", "starting", "degraded", "down"]


@dataclass(frozen=True)
class NodeHealth:
    """One node: its state in a word or two, GPUs that Ray counts there, and what its containers do."""

    member: Member
    state: str
    gpus_joined: int
    containers: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Health:
    """The cluster: its state, its nodes in order of node rank, and what is missing and where."""

    state: State
    nodes: tuple[NodeHealth, ...]
    ready: bool
    missing: tuple[str, ...]
    last_words: str = ""

    @property
    def nodes_alive(self) -> int:
        return sum(node.state == "joined" for node in self.nodes)

    @property
    def gpus_total(self) -> int:
        return sum(node.gpus_joined for node in self.nodes)


def health(plan: Plan, facts: Mapping[str, Facts], unreachable: Mapping[str, str]) -> Health:
    """The health of a cluster; `unreachable` is {node name: reason} for nodes without facts."""
    head = facts.get(plan.head.name, Facts())
    ray_nodes = next((fact.ray_nodes for fact in (head, *facts.values()) if fact.ray_nodes), ())
    nodes = tuple(_node(plan, member, facts.get(member.name), ray_nodes) for member in plan.members)
    answered = head.answer is not None and head.answer.text is not None
    missing = tuple(_missing(plan, facts, nodes, unreachable))
    return Health(_state(facts, nodes, answered, head), nodes, answered, missing, head.last_words)


def _state(facts: Mapping[str, Facts], nodes: tuple[NodeHealth, ...], answered: bool, head: Facts) -> State:
    known = facts and not any(fact.engine_error for fact in facts.values()) and len(facts) == len(nodes)
    if known and not any(fact.containers for fact in facts.values()):
        return "down"
    whole = all(node.state == "joined" for node in nodes)
    if answered and whole:
        return "serving"
    serve = head.container("serve")
    refused = head.answer is not None and "refused" in head.answer.reason.lower()
    if whole and serve is not None and serve.running and refused:
        return "starting"
    return "degraded"


def _node(plan: Plan, member: Member, fact: Facts | None, ray_nodes: tuple[RayNode, ...]) -> NodeHealth:
    if fact is None:
        return NodeHealth(member, "unreachable", 0, ())
    containers = tuple((c.role, c.state) for c in fact.containers if c.role != "probe")
    state = _node_state(plan, member, fact, ray_nodes)
    joined = next((int(n.gpus) for n in ray_nodes if n.alive and n.address == member.address), 0)
    if not plan.uses_ray and state == "joined":
        joined = member.node.gpus  # with mp its ranks are this container
    return NodeHealth(member, state, joined, containers)


def _node_state(plan: Plan, member: Member, fact: Facts, ray_nodes: tuple[RayNode, ...]) -> str:
    main = fact.container("ray" if plan.uses_ray else "serve")
    if main is None:
        return "down"
    if not main.running:
        return "exited"
    if plan.uses_ray and why_not_joined(plan, member, ray_nodes) is not None:
        return "not joined"
    return "joined"


def _missing(
    plan: Plan, facts: Mapping[str, Facts], nodes: tuple[NodeHealth, ...], unreachable: Mapping[str, str]
) -> Iterator[str]:
    """Sentences: what is missing, and where."""
    started = any(fact.containers for fact in facts.values())
    for node in nodes:
        name = node.member.name
        if name in unreachable:
            yield f"{name}: {unreachable[name]}"
            continue
        fact = facts[name]
        if fact.engine_error:
            yield f"{name}: {plan.runtime.engine}: {fact.engine_error}"
        elif started and node.state == "down" and (plan.uses_ray or node.member.role == "worker"):
            yield f"{name}: {'Ray' if plan.uses_ray else 'vLLM'} has not been started"
        for role, state in node.containers:
            if state != "running":
                yield f"{name}: the {role} container {state}"
        if node.state == "not joined":
            yield f"{name}: has not joined Ray{f' ({fact.ray_error})' if fact.ray_error else ''}"
    if started:
        yield from _missing_server(plan, facts.get(plan.head.name))


def _missing_server(plan: Plan, head: Facts | None) -> Iterator[str]:
    if head is None:
        return
    serve = head.container("serve")
    if serve is None:
        yield f"{plan.head.name}: vLLM has not been started"
    elif serve.running and head.answer is not None and head.answer.text is None:
        yield f"{plan.head.name}: no completion: {head.answer.reason}"
