"""Who has not joined, and how far the model has come."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest
from samples import plan

from cluster.facts import RayNode
from cluster.join import progress, why_not_joined, why_not_ready
from cluster.steps import Result

LOG = Path(__file__).parents[1] / "recorded" / "vllm-0.26-ray-two-nodes.log.gz"
HEAD, WORKER = RayNode("10.0.0.11", "gpu-01", True, 2), RayNode("10.0.0.12", "gpu-02", True, 2)
LOST = "Unexpected termination: health check failed due to missing too many heartbeats"
DEAD = RayNode("10.0.0.12", "gpu-02", False, 0, LOST)


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([HEAD, WORKER], None),
        ([HEAD, DEAD, WORKER], None),
        ([HEAD], "1 of 2 nodes alive, gpu-02 (10.0.0.12) is missing"),
        ([], "0 of 2 nodes alive, gpu-02 (10.0.0.12) is missing"),
        ([HEAD, DEAD], f"1 of 2 nodes alive, gpu-02 (10.0.0.12) is missing: {LOST}"),
        (
            [HEAD, RayNode("10.0.0.12", "gpu-02", True, 1)],
            "gpu-02 (10.0.0.12) joined with 1 of 2 GPUs",
        ),
        (
            [HEAD, RayNode("10.0.0.99", "gpu-02", True, 2)],
            "1 of 2 nodes alive, gpu-02 (10.0.0.12) is missing",
        ),
    ],
)
def test_why_a_worker_has_not_joined(nodes: list[RayNode], why: str | None) -> None:
    assert why_not_joined(plan(), plan().workers[0], nodes) == why


def test_a_killed_node_that_ray_still_counts_is_not_the_one_that_was_started() -> None:
    killed, started = replace(WORKER, id="a1"), replace(WORKER, id="b2")
    worker = plan().workers[0]
    assert why_not_joined(plan(), worker, [HEAD, killed], before={"a1"}) is not None
    assert why_not_joined(plan(), worker, [HEAD, killed, started], before={"a1"}) is None


def test_the_stages_of_a_real_start_in_order() -> None:
    lines = gzip.decompress(LOG.read_bytes()).decode().splitlines()
    said = [progress("\n".join(lines[: end + 1])) for end in range(len(lines))]
    assert list(dict.fromkeys(said)) == [
        None,
        "starting the engine",
        "weights loaded (32.89 GiB in 1 s)",
        "weights loaded, 84.94 GiB for the KV cache",
        "KV cache of 1,111,712 tokens, warming up",
        "listening, no completion yet",
    ]


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        ("INFO [gpu_model_runner.py:5000] Starting to load model /models/x...", "loading weights"),
        (
            "Loading safetensors checkpoint shards:  47% Completed | 14/30 [00:11<00:13,  1.21it/s]",
            "loading weights, 47%",
        ),
        ("INFO [default_loader.py:507] Loading weights took 71.51 seconds", "weights loaded in 72 s"),
        (
            "INFO [gpu_model_runner.py:5089] Model loading took 8.21 GiB memory and 80.123456 seconds",
            "weights loaded (8.21 GiB in 80 s)",
        ),
        (
            "INFO [gpu_worker.py:773] Available KV cache memory: 51.63 GiB",
            "weights loaded, 51.63 GiB for the KV cache",
        ),
        (
            "INFO [kv_cache_utils.py:1147] GPU KV cache size: 643,232 tokens, "
            "Maximum concurrency for 40,960 tokens per request: 15.70x",
            "KV cache of 643,232 tokens, warming up",
        ),
        ("INFO Graph capturing finished in 21 secs, took 0.98 GiB", "CUDA graphs captured in 21 secs"),
        (
            "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  35%|███▌      | 24/67",
            "capturing CUDA graphs, 35%",
        ),
        (
            "INFO Waiting for creating a placement group of specs for 10 seconds.",
            "waiting for Ray to give the GPUs",
        ),
        ("nothing that we know", None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_lines_of_other_versions(line: str, stage: str | None) -> None:
    assert progress(line) == stage


def test_the_furthest_stage_counts_whatever_a_slower_rank_says_later() -> None:
    assert progress("Available KV cache memory: 5.1 GiB\nStarting to load model x") == (
        "weights loaded, 5.1 GiB for the KV cache"
    )


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (Result(0, '{"answer": "Paris.", "seconds": 0.2}\n', ""), None),
        (
            Result(1, "", "http://10.0.0.11:8000/v1/completions: Connection refused\n"),
            "vLLM is starting",
        ),
        (
            Result(1, "", "answered 503: EngineCore is dead\n"),
            "answered 503: EngineCore is dead",
        ),
        (Result(1, "Starting to load model x\n", "Connection refused\n"), "loading weights"),
    ],
)
def test_why_a_server_is_not_ready(result: Result, why: str | None) -> None:
    assert why_not_ready(result) == why
