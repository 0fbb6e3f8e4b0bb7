"""`clusterctl status`: one screen that says what is there, and what is missing and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster import console, fleet
from cluster.commands.others import others, show
from cluster.doctor.redact import redacted
from cluster.errors import EXIT_DONE, EXIT_NO, ConnectError, indent
from cluster.facts import Facts, what_serves
from cluster.gather import gather_tolerantly
from cluster.health import Health, NodeHealth, health
from cluster.inventory import load
from cluster.plan import Plan, make_plan
from cluster.played import played_now
from cluster.prediction import KvFigures, predicted

STYLES = {
    "serving": "bold green",
    "joined": "green",
    "starting": "yellow",
    "degraded": "bold red",
    "unreachable": "bold red",
    "exited": "bold red",
    "not joined": "bold red",
}


def status(file: Path, as_json: bool) -> int:
    """Exit code 0 only if the model serves; 4 if a member cannot be reached. Raises ClusterctlError."""
    inventory = load(file)
    with fleet.connect(inventory, tolerant=True) as lines:
        now, roster = played_now(inventory, lines)
        plan = make_plan(now)
        facts, lost = gather_tolerantly(plan, lines.connections, what_serves)
    away = {**lines.unreachable, **lost}
    unreachable = {member.name: away[member.name] for member in plan.members if member.name in away}
    found = health(plan, facts, unreachable)
    beside = others(inventory, now, roster, away)
    cache = KvFigures.of(predicted(plan, facts), facts.get(plan.head.name, Facts()).kv_cache)
    if as_json:
        console.emit({**to_json(plan, found, cache), **beside.json()})
    else:
        _show(plan, found, cache)
        show(beside)
        _show_ignored(facts)
    if unreachable:
        return ConnectError.exit_code
    return EXIT_DONE if found.state == "serving" else EXIT_NO


def to_json(plan: Plan, found: Health, cache: KvFigures) -> dict[str, Any]:
    """The status for programs."""
    return {
        "cluster": plan.cluster,
        "state": found.state,
        "nodes": [_node_json(node) for node in found.nodes],
        "ray": {"nodes_alive": found.nodes_alive, "gpus_total": found.gpus_total},
        "serve": {
            "url": plan.url,
            "model": plan.served_name,
            "ready": found.ready,
            "tensor_parallel_size": plan.tensor_parallel_size,
            "pipeline_parallel_size": plan.pipeline_parallel_size,
        },
        "kv_cache": asdict(cache),
        "missing": list(found.missing),
        "last_words": redacted(found.last_words),
    }


def _node_json(node: NodeHealth) -> dict[str, Any]:
    return {
        "name": node.member.name,
        "address": node.member.address,
        "role": node.member.role,
        "node_rank": node.member.node_rank,
        "state": node.state,
        "gpus": {"expected": node.member.node.gpus, "joined": node.gpus_joined},
        "containers": dict(node.containers),
    }


def _show(plan: Plan, found: Health, cache: KvFigures) -> None:
    console.styled(plan.cluster, found.state, STYLES)
    console.say(f"{plan.served_name}, {plan.sizes}, {plan.url}/v1")
    console.say("")
    console.table(
        ("node", "address", "role", "rank", "state", "GPUs", "containers"),
        [_row(node) for node in found.nodes],
        STYLES,
    )
    if cache.rows:
        console.say("")
        console.table(("", "predicted", "vLLM reports"), cache.rows)
    for sentence in found.missing:
        console.say(f"! {sentence}")
    if found.last_words:
        console.say(
            f"\nThe server's last words (all of them: clusterctl logs):\n{indent(redacted(found.last_words))}"
        )


def _show_ignored(facts: Mapping[str, Facts]) -> None:
    ignored = dict.fromkeys(id_ for fact in facts.values() for id_ in fact.ignored)
    if ignored:
        console.say(f"started with problems that were ignored: {', '.join(ignored)}")


def _row(node: NodeHealth) -> tuple[str, ...]:
    gpus = f"{node.gpus_joined}/{node.member.node.gpus}"
    containers = ", ".join(f"{role} {state}" for role, state in node.containers) or "none"
    member = node.member
    return (member.name, member.address, member.role, str(member.node_rank), node.state, gpus, containers)
