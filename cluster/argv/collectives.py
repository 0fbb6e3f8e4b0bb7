"""The arguments of on_node/collectives.py."""

from __future__ import annotations

from cluster.plan import Member, Plan
from cluster.steps import Argv

# Of the time for all of it: to import torch, or to join, or to make the communicator; and each measurement.
START_SHARE, STAGE_SHARE = 1 / 2, 1 / 6
LONGEST_STAGE = 20.0  # seconds: what hangs is to be told soon, however long a start may take


def arguments(plan: Plan, member: Member) -> Argv:
    """What the program has to know on one node; every node gets the same but for its rank."""
    return (
        *("--head", plan.head.address),
        *("--port", str(plan.verify_port)),
        *("--node-rank", str(member.node_rank)),
        *("--gpus", ",".join(str(one.node.gpus) for one in plan.members)),
        *("--backend", "gloo" if plan.runtime.device == "cpu" else "nccl"),
        *("--stride", str(plan.tensor_parallel_size)),
        *("--start-limit", f"{plan.verify_timeout * START_SHARE:g}"),
        *("--stage-limit", f"{min(LONGEST_STAGE, plan.verify_timeout * STAGE_SHARE):g}"),
        *("--total-limit", f"{plan.verify_timeout:g}"),
    )
