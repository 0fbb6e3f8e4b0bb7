"""The command lines of Ray's own program."""

from __future__ import annotations

from cluster.plan import Member, Plan
from cluster.steps import Argv


def start(plan: Plan, member: Member) -> Argv:
    """`ray start` as this member runs it, in the foreground."""
    return (
        *("ray", "start"),
        *(_head(plan) if member.role == "head" else ("--address", plan.ray_address)),
        *("--node-ip-address", member.address),
        *("--node-name", member.name),
        *("--num-gpus", str(member.node.gpus)),
        *("--object-store-memory", str(plan.ray.object_store_memory)),
        "--disable-usage-stats",
        "--block",
    )


def _head(plan: Plan) -> Argv:
    return (
        "--head",
        *("--port", str(plan.ray.port)),
        f"--include-dashboard={'true' if plan.ray.dashboard else 'false'}",
    )
