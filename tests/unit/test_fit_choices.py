"""The order of splits, and the reason that each is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.fit.choices import Choice, Fabric, Hardware, choices, choose
from cluster.fit.gpus import find_gpu
from cluster.fit.predict import read_model
from cluster.fit.report import choice_json, row
from cluster.fit.settings import Settings
from cluster.fit.split import Split

MODELS = Path(__file__).parent / "models"


def ranked(
    name: str, gpu: str, nodes: int, each: int, fabric: Fabric = "unknown", asked: Settings | None = None
) -> tuple[Choice, ...]:
    asked = asked or Settings(max_model_len=-1)
    model = read_model(json.loads((MODELS / f"{name}.json").read_text()), None, asked)
    return choices(model, asked, Hardware(nodes, each, find_gpu(gpu).memory_bytes, gpu, fabric))


def sizes(choice: Choice) -> tuple[int, int, int]:
    split = choice.split
    return split.tensor_parallel_size, split.pipeline_parallel_size, split.data_parallel_size


@pytest.mark.parametrize(
    ("name", "gpu", "nodes", "each", "first"),
    [
        ("llama-3.1-405b-fp8", "H100-80G", 2, 8, (8, 2, 1)),
        ("llama-3.1-405b", "H100-80G", 4, 8, (8, 4, 1)),
        ("llama-3.1-70b", "H100-80G", 2, 8, (8, 2, 1)),
        ("llama-3.1-70b", "H100-80G", 1, 8, (8, 1, 1)),
        ("deepseek-v3", "H200-141G", 2, 8, (8, 2, 1)),
        ("mixtral-8x7b", "A100-80G", 1, 2, (2, 1, 1)),
        # One GPU holds it whole: nothing is split, every GPU has a replica.
        ("llama-3.1-8b", "H100-80G", 2, 8, (1, 1, 16)),
        # One GPU would hold it with a shorter context alone.
        ("llama-3.1-8b", "L4-24G", 2, 4, (4, 2, 1)),
        # Eight GPUs cannot share FP8 blocks of 128 in experts of 1,536.
        ("qwen3-235b-a22b-fp8", "H100-80G", 1, 8, (4, 2, 1)),
        # 14 attention heads.
        ("qwen2.5-0.5b", "T4-16G", 1, 4, (1, 1, 4)),
    ],
)
def test_the_first_choice(name: str, gpu: str, nodes: int, each: int, first: tuple[int, int, int]) -> None:
    found = ranked(name, gpu, nodes, each)
    assert sizes(found[0]) == first
    assert found[0].prediction.fits


def test_every_split_uses_every_gpu_once() -> None:
    found = [sizes(choice) for choice in ranked("llama-3.1-70b", "H100-80G", 3, 8)]
    assert len(set(found)) == len(found)
    assert {tensor * pipeline * data for tensor, pipeline, data in found} == {24}
    assert {tensor for tensor, _, _ in found} == {1, 2, 4, 8, 24}


def test_what_does_not_fit_comes_last_and_what_is_impossible_after_it() -> None:
    found = ranked("llama-3.1-70b", "H100-80G", 3, 8)
    order = [(c.prediction.fits is not True) + (c.prediction.weight_bytes_per_rank is None) for c in found]
    assert order == sorted(order)
    assert set(order) == {0, 1, 2}
    assert "64 attention heads do not divide by 24" in found[-1].why


@pytest.mark.parametrize(
    ("fabric", "place", "why"),
    [
        ("infiniband", 1, "every layer's all-reduce crosses InfiniBand; worth a try where latency"),
        ("roce", 1, "every layer's all-reduce crosses RoCE; worth a try where latency"),
        ("ethernet", 4, "every layer's all-reduce crosses Ethernet, which is too slow for it"),
        ("unknown", 4, "every layer's all-reduce crosses the network (say --fabric"),
    ],
)
def test_tensor_parallelism_across_nodes_needs_a_fast_fabric(fabric: Fabric, place: int, why: str) -> None:
    found = ranked("llama-3.1-70b", "H100-80G", 2, 8, fabric)
    across = next(choice for choice in found if choice.split.tensor_parallel_size == 16)
    assert found.index(across) == place
    assert across.why.startswith(why)
    assert "8 KV heads replicated: a tensor parallel size above 8 saves no cache" in across.why


def test_reasons() -> None:
    found = {sizes(choice): choice.why for choice in ranked("llama-3.1-70b", "H100-80G", 2, 8)}
    assert found[8, 2, 1] == "tensor parallel inside a node; 2 pipeline stages across nodes"
    assert found[4, 2, 2] == (
        "tensor parallel inside a node; 2 pipeline stages inside a node; "
        "2 replicas of 8 GPUs, each with this cache"
    )
    experts = {sizes(choice): choice.why for choice in ranked("deepseek-v3", "H200", 2, 8)}
    assert "MLA's cache is whole on every GPU" in experts[8, 2, 1]
    assert "experts spread over all of them; experts' traffic crosses the network" in experts[1, 1, 16]


def test_a_shorter_context_is_named() -> None:
    (only,) = ranked("llama-3.1-8b", "23.65GiB", 1, 1)
    length = only.prediction.max_model_len
    assert only.why == f"set max_model_len to at most {length:,}: the model's own 131,072 do not fit"
    (asked,) = ranked("llama-3.1-8b", "23.65GiB", 1, 1, asked=Settings(max_model_len=8_192))
    assert (asked.why, asked.prediction.max_model_len) == ("", 8_192)


def test_a_partition_of_layers_holds_for_its_own_pipeline_size_alone() -> None:
    asked = Settings(max_model_len=-1, layers_per_stage=(20, 7))
    found = {sizes(choice): choice for choice in ranked("deepseek-v2-lite", "L40S", 2, 2, asked=asked)}
    assert found[2, 2, 1].prediction.kv_bytes_per_token_per_rank == 20 * 1_152
    assert found[1, 4, 1].prediction.kv_bytes_per_token_per_rank == 7 * 1_152


def test_sizes_that_nobody_would_choose_can_be_asked_for() -> None:
    asked = Settings(max_model_len=4_096)
    model = read_model(json.loads((MODELS / "llama-3.1-8b.json").read_text()), None, asked)
    own = choose(model, Split(2, 1), asked, Hardware(1, 3, find_gpu("L4").memory_bytes, "L4"))
    assert own.prediction.fits


def test_json_and_rows() -> None:
    found = ranked("llama-3.1-70b", "H100-80G", 3, 8)
    first, last = choice_json(found[0]), choice_json(found[-1])
    assert (first["tensor_parallel_size"], first["pipeline_parallel_size"], first["fits"]) == (8, 3, True)
    assert (last["fits"], last["weight_bytes_per_rank"], last["kv_tokens"]) == (False, None, None)
    assert json.loads(json.dumps([first, last])) == [first, last]
    cells = row(found[0], marked=True)
    assert cells[:5] == ("*", "8", "3", "1", "yes")
    assert cells[5].endswith(" GiB") and "," in cells[7]
    assert row(found[-1], marked=False)[:10] == ("", "24", "1", "1", "no", "-", "-", "-", "-", "-")
