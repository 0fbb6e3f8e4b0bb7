"""Why a cluster is not there yet, as sentences: who has not joined, how far the model has come. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from cluster.facts.service import parse_answer
from cluster.facts.types import RayNode
from cluster.plan import Member, Plan
from cluster.steps import Result


def why_not_joined(
    plan: Plan, member: Member, nodes: Sequence[RayNode], before: Collection[str] = ()
) -> str | None:
    """Why a member counts as missing, or None; dead entries of a restarted node are passed over.

    So are those with an id of `before`: Ray takes some 15 s to notice that a killed node is dead, and who has
    just been started there is another one.
    """
    alive = [node for node in nodes if node.alive and node.id not in before]
    own = next((node for node in alive if node.address == member.address), None)
    if own is not None and own.gpus >= member.node.gpus:
        return None
    if own is not None:
        return f"{member.name} ({member.address}) joined with {own.gpus:g} of {member.node.gpus} GPUs"
    ours = sum(node.address in {other.address for other in plan.members} for node in alive)
    died = next((node.reason for node in nodes if node.address == member.address and node.reason), "")
    return (
        f"{ours} of {len(plan.members)} nodes alive, {member.name} ({member.address}) is missing"
        f"{f': {died}' if died else ''}"
    )


def why_not_ready(result: Result) -> str | None:
    """How far the server has come, from the reason of the failed completion and vLLM's own log."""
    answer = parse_answer(result)["answer"]
    if answer.text is not None:
        return None
    starting = "refused" in answer.reason.lower()
    return progress(result.stdout) or ("vLLM is starting" if starting else str(answer.reason))


def progress(log: str) -> str | None:
    """The furthest stage that vLLM's log has reached, with the figures that it gives."""
    lines = log.splitlines()
    for pattern, sentence in STAGES:
        for line in reversed(lines):
            found = pattern.search(line)
            if found:
                return sentence(found)
    return None


STAGES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"Application startup complete"), lambda _: "listening, no completion yet"),
    (re.compile(r"Graph capturing finished in (\S+ \w+)"), lambda m: f"CUDA graphs captured in {m[1]}"),
    (re.compile(r"Capturing CUDA graphs.*?(\d+%)"), lambda m: f"capturing CUDA graphs, {m[1]}"),
    (
        re.compile(r"(?:GPU|CPU) KV cache size: ([\d,]+) tokens"),
        lambda m: f"KV cache of {m[1]} tokens, warming up",
    ),
    (
        re.compile(r"Available KV cache memory: ([\d.]+ GiB)"),
        lambda m: f"weights loaded, {m[1]} for the KV cache",
    ),
    (
        re.compile(r"Model loading took ([\d.]+ GiB)\S* (?:memory )?and ([\d.]+) s"),
        lambda m: f"weights loaded ({m[1]} in {float(m[2]):.0f} s)",
    ),
    (
        re.compile(r"Loading weights took ([\d.]+) seconds"),
        lambda m: f"weights loaded in {float(m[1]):.0f} s",
    ),
    (re.compile(r"Loading safetensors checkpoint shards:\s+(\d+%)"), lambda m: f"loading weights, {m[1]}"),
    (re.compile(r"Starting to load model"), lambda _: "loading weights"),
    (re.compile(r"Waiting for creating a placement group"), lambda _: "waiting for Ray to give the GPUs"),
    (re.compile(r"Initializing a V1 LLM engine"), lambda _: "starting the engine"),
)
