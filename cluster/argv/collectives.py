"""The arguments of on_node/collectives.py."""

from __future__ import annotations

from cluster.plan import Member, Plan
from cluster.steps import Argv

# Seconds: to import torch and find each other; each measurement; all of it.
START_LIMIT, STAGE_LIMIT, TOTAL_LIMIT = 60.0, 20.0, 120.0


def arguments(plan: Plan, member: Member) -> Argv:
    """What the program has to know on one node; every node gets the same but for its rank."""
    return (
        *("--head", plan.head.address),
        *("--port", str(plan.verify_port)),
        *("--node-rank", str(member.node_rank)),
        *("--gpus", ",".join(str(one.node.gpus) for one in plan.members)),
        *("--backend", "gloo" if plan.runtime.device == "cpu" else "nccl"),
        *("--stride", str(plan.tensor_parallel_size)),
        *("--start-limit", f"{START_LIMIT:g}"),
        *("--stage-limit", f"{STAGE_LIMIT:g}"),
        *("--total-limit", f"{TOTAL_LIMIT:g}"),
    )
