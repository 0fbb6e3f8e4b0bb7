"""What nodes answer when they are asked to prove the network: healthy ones, and with changes."""

from __future__ import annotations

import base64
import gzip
import json
from itertools import combinations
from typing import Any

from nccllog import Run as NcclRun
from nccllog import processes
from samples import fresh

from cluster.choice import choose, expected_environment
from cluster.plan import Member, Plan
from cluster.steps import Result

SIZES = {8: 4e-5, 1 << 20: 1e-4, 512 << 20: 4e-3}
MESSAGE, MESSAGE_SECONDS = 64 << 20, 2e-3


def ranks_of(plan: Plan, member: Member) -> range:
    """The ranks on a node."""
    first = sum(one.node.gpus for one in plan.members[: member.node_rank])
    return range(first, first + member.node.gpus)


def logs(plan: Plan, member: Member, run: NcclRun) -> list[dict[str, Any]]:
    """NCCL's logs of a node's ranks, as on_node/collectives.py packs them."""
    texts = ["".join(f"{line.text}\n" for line in one.lines).encode() for one in processes(run)]
    return [packed(100 + rank, texts[rank]) for rank in ranks_of(plan, member)]


def packed(pid: int, text: bytes) -> dict[str, Any]:
    content = base64.b64encode(gzip.compress(text, mtime=0)).decode()
    return {"pid": pid, "size": len(text), "cut": False, "gzip": content}


def measured(plan: Plan, member: Member, run: NcclRun | None = None, **changes: Any) -> dict[str, Any]:
    """A node's answer to `verify`: all of its ranks came to their end."""
    world, stride = plan.gpus, plan.tensor_parallel_size
    ranks = ranks_of(plan, member)
    run = run or NcclRun(nodes=len(plan.members), gpus=member.node.gpus, network="Socket")
    return {
        "node_rank": member.node_rank,
        "backend": "gloo" if plan.runtime.device == "cpu" else "nccl",
        "torch": "2.11.0",
        "seconds": 9.5,
        "error": "",
        "ranks": [rank_end(rank) for rank in ranks],
        "sweep": [{"bytes": size, "seconds": s, "iterations": 10} for size, s in SIZES.items()],
        "stages": [transfer(rank, rank + stride) for rank in ranks if rank + stride < world],
        "pairs": [
            transfer(rank, peer)
            for a, b in combinations(plan.members, 2)
            for pair in zip(ranks_of(plan, a), ranks_of(plan, b), strict=False)
            for rank, peer in (pair, pair[::-1])
            if rank in ranks
        ],
        "logs": [] if plan.runtime.device == "cpu" else logs(plan, member, run),
        **changes,
    }


def rank_end(
    rank: int, state: str = "done", stage: str = "ending", steps: int = 9, **more: Any
) -> dict[str, Any]:
    return {
        "rank": rank,
        "state": state,
        "stage": stage,
        "steps": steps,
        "error": "",
        "missing": [],
        "process": "",
        **more,
    }


def transfer(src: int, dst: int, seconds: float = MESSAGE_SECONDS) -> dict[str, Any]:
    return {"src": src, "dst": dst, "bytes": MESSAGE, "seconds": seconds}


def environments(plan: Plan, member: Member, serves: bool) -> dict[str, Any]:
    """A node's answer to `attest`: every process has what was planned."""
    environment = expected_environment(member, choose(plan, fresh(plan))[member.name])
    kinds = [("ray", "raylet")] if plan.uses_ray else []
    if serves:
        kinds += [("server", "vLLM's API server")] if member in plan.servers else []
        kinds += [("rank", "ray::RayWorkerProc.run")] * member.node.gpus
    return {
        "host": member.name,
        "names": sorted(environment),
        "network_env": None,
        "processes": [
            {"pid": 7 + n, "kind": kind, "what": what, "environment": environment}
            for n, (kind, what) in enumerate(kinds)
        ],
        "logs": [],
    }


def said(content: object) -> Result:
    return Result(0, json.dumps(content) + "\n", "")
