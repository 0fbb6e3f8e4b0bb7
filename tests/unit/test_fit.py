"""The figures of `clusterctl fit` against published ones, and what has to hold between them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.fit import FitError, Prediction, predict
from cluster.fit.gpus import find_gpu
from cluster.fit.predict import Model, read_model
from cluster.fit.settings import Settings
from cluster.fit.shape import read_shape
from cluster.fit.split import Split, stages
from cluster.fit.tensors import layer_tensors, prediction_layer_tensors
from cluster.fit.weights import rotary_bytes, stage_bytes

GIB = 2**30
MODELS = Path(__file__).parent / "models"
NAMES = sorted(file.stem for file in MODELS.glob("*.json"))


def config(name: str, **changes: Any) -> dict[str, Any]:
    return {**json.loads((MODELS / f"{name}.json").read_text()), **changes}


def model(name: str, **changes: Any) -> Model:
    return read_model(config(name, **changes), None, Settings())


def figures(
    name: str,
    tensor: int = 1,
    pipeline: int = 1,
    memory: float = 79.10 * GIB,
    index: int | None = None,
    args: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Prediction:
    return predict(
        config(name, **changes),
        index,
        tensor_parallel_size=tensor,
        pipeline_parallel_size=pipeline,
        memory_bytes_per_gpu=int(memory),
        serve_args={"max_model_len": "auto", **(args or {})},
        env={},
        device="cuda",
    )


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("llama-3.1-405b", 405_853_388_800),
        ("llama-3.1-405b-fp8", 405_853_388_800),
        ("mixtral-8x7b", 46_702_792_704),
        ("mistral-7b-v0.1", 7_241_732_096),
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen2.5-72b", 72_706_203_648),
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-235b-a22b", 235_093_634_560),
        ("deepseek-v2-lite", 15_706_484_224),
        (
            "deepseek-v3",
            671_026_404_352 + 58 * 256,
        ),  # the routers' score corrections are not in the card's count
        ("smollm2-135m", 134_515_008),
        ("gemma-2-9b", 9_241_705_984),
        ("gemma-3-27b", 27_009_346_304),
        ("gpt-oss-20b", 20_914_757_184),
        ("gpt-oss-120b", 116_829_156_672),
    ],
)
def test_parameters_are_those_of_the_published_checkpoints(name: str, parameters: int) -> None:
    assert model(name).parameters == parameters


@pytest.mark.parametrize(
    ("name", "total"), [("deepseek-v3", 684_489_845_504), ("glm-4.5-air", 110_468_824_832)]
)
def test_a_checkpoint_with_its_prediction_layer(name: str, total: int) -> None:
    read = model(name)
    assert read.parameters + sum(t.parameters for t in prediction_layer_tensors(read.shape)) == total


@pytest.mark.parametrize(
    ("name", "kib"),
    [
        ("llama-3.1-8b", 128),
        ("llama-3.1-70b", 320),
        ("llama-3.1-405b", 504),
        ("qwen2.5-72b", 320),
        ("mixtral-8x7b", 128),
        ("qwen3-235b-a22b", 188),
        ("deepseek-v3", 68.625),
    ],
)
def test_kv_cache_of_a_token(name: str, kib: float) -> None:
    assert model(name).kv_bytes_per_token == kib * 1024


@pytest.mark.parametrize(("share", "left"), [(0.90, 5.01), (0.95, 6.19)])
def test_a_published_measurement_comes_out_to_the_digit(share: float, left: float) -> None:
    """vLLM's log for Llama 3.1 8B on a GPU of 23.65 GiB."""
    found = figures("llama-3.1-8b", memory=23.65 * GIB, args={"gpu_memory_utilization": share})
    assert found.weight_bytes_per_rank and found.activation_bytes and found.kv_cache_bytes
    assert round(found.weight_bytes_per_rank / GIB, 2) == 14.99
    assert round(found.activation_bytes / GIB, 2) == 1.20
    assert round(found.kv_cache_bytes / GIB, 2) == left


def test_the_rotary_table_is_what_parts_llama_3_from_3_1() -> None:
    """vLLM's logs: "model weights take 14.96GiB" for Llama 3 8B, 14.99 for 3.1 (vllm#10511)."""
    weights = figures("llama-3-8b").weight_bytes_per_rank
    assert weights and round(weights / GIB, 2) == 14.96


def test_the_lab_prints_exactly_so_many_tokens() -> None:
    found = predict(
        config("smollm2-135m"),
        269_030_016,
        tensor_parallel_size=1,
        pipeline_parallel_size=2,
        memory_bytes_per_gpu=None,
        serve_args={"kv_cache_memory_bytes": "256M", "max-model-len": 1024, "dtype": "bfloat16"},
        env={},
        device="cpu",
    )
    assert (found.kv_tokens, found.max_concurrency, found.fits) == (23_296, 22.75, True)
    assert (found.activation_bytes, found.max_context) == (None, 8_192)


def test_the_examples_in_this_repository() -> None:
    """What the comments in examples/ say, worked out by hand."""
    llama = figures("llama-3.1-70b", 8, 2)
    assert llama.kv_bytes_per_token_per_rank == 20_480
    assert llama.kv_tokens == pytest.approx(3.2e6, rel=0.02)
    assert llama.max_concurrency == pytest.approx(24, rel=0.02)
    deepseek = figures("deepseek-v3", 8, 2, memory=find_gpu("H200").memory_bytes)
    assert deepseek.kv_bytes_per_token_per_rank == 31 * 1_152
    assert deepseek.kv_tokens == pytest.approx(2.6e6, rel=0.02)


def test_bytes_of_the_index_beat_arithmetic() -> None:
    plain, measured = figures("llama-3.1-8b"), figures("llama-3.1-8b", index=16_221_127_680)
    assert measured.weight_bytes == 16_221_127_680
    assert plain.weight_bytes_per_rank and measured.weight_bytes_per_rank
    more = measured.weight_bytes_per_rank - plain.weight_bytes_per_rank
    assert more == 16_221_127_680 - plain.weight_bytes


def test_a_prediction_layer_in_the_index_is_not_loaded() -> None:
    """688,574,839,360 bytes are in DeepSeek-V3's checkpoint, 13.5 B parameters of them in the layer."""
    found, plain = figures("deepseek-v3", 8, 2, index=688_574_839_360), figures("deepseek-v3", 8, 2)
    assert found.weight_bytes == pytest.approx(plain.weight_bytes, rel=1e-6)
    without = figures("deepseek-v3", 8, 2, index=plain.weight_bytes)
    assert without.weight_bytes == plain.weight_bytes


def test_an_index_of_another_model_is_refused() -> None:
    with pytest.raises(FitError, match="do not belong together"):
        figures("llama-3.1-8b", index=141_107_412_992)


def test_encoders_beside_the_decoder_are_known_from_the_index_alone() -> None:
    plain = figures("gemma-3-27b", 2)
    assert plain.why.endswith("not counted: encoders of other modalities")
    whole = figures("gemma-3-27b", 2, index=54_864_813_280)
    assert whole.weight_bytes == 54_864_813_280
    assert "encoders" not in whole.why
    assert whole.weight_bytes_per_rank and plain.weight_bytes_per_rank
    assert whole.weight_bytes_per_rank - plain.weight_bytes_per_rank == 54_864_813_280 - plain.weight_bytes


@pytest.mark.parametrize(
    ("quantised", "bytes_per_parameter"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 0.5 + 2.5 / 128),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, 0.5 + 2.5 / 64),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 1),
        ({"quant_method": "fp8"}, 1),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 1 + 4 / 128**2),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 1),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 0.5625),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, 1),
        ({"quant_method": "modelopt", "quantization": {"quant_algo": "NVFP4"}}, 0.5625),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {"weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}
                },
                "ignore": ["lm_head"],
            },
            1,
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {
                        "weights": {"num_bits": 4, "type": "int", "group_size": 128, "symmetric": True}
                    }
                },
            },
            0.5 + 2 / 128,
        ),
    ],
)
def test_formats_of_quantised_weights(quantised: dict[str, Any], bytes_per_parameter: float) -> None:
    found = model("llama-3.1-8b", quantization_config=quantised)
    kept = 2 * 128_256 * 4_096 + (2 * 32 + 1) * 4_096
    expected = 2 * kept + (8_030_261_248 - kept) * bytes_per_parameter
    assert found.weight_bytes == pytest.approx(expected, abs=1)


def test_what_a_checkpoint_leaves_unquantised_stays_as_it_is() -> None:
    """Meta's FP8 405B keeps attention and the first and last layer in bf16."""
    attention, mlp = 126 * (2 * 16_384**2 + 2 * 16_384 * 1_024), 3 * 16_384 * 53_248
    kept = 2 * 128_256 * 16_384 + (2 * 126 + 1) * 16_384 + attention + 2 * mlp
    assert model("llama-3.1-405b-fp8").weight_bytes == 405_853_388_800 + kept
    patterns = {"quant_method": "fp8", "ignored_layers": ["re:.*self_attn.*", "model.layers.3.mlp"]}
    assert model("llama-3.1-8b", quantization_config=patterns).weight_bytes > model(
        "llama-3.1-8b", quantization_config={"quant_method": "fp8"}
    ).weight_bytes + 32 * (2 * 4_096**2 + 2 * 4_096 * 1_024)


def test_weights_quantised_while_they_are_loaded() -> None:
    whole, fp8 = figures("llama-3.1-70b", 8), figures("llama-3.1-70b", 8, args={"quantization": "fp8"})
    assert whole.weight_bytes == 141_107_412_992
    assert fp8.weight_bytes == pytest.approx(whole.weight_bytes / 2, rel=0.04)
    full = figures("llama-3.1-70b", 8, args={"dtype": "float32"})
    assert full.weight_bytes == 2 * whole.weight_bytes
    assert full.kv_bytes_per_token == 2 * whole.kv_bytes_per_token


def test_a_flag_that_contradicts_the_checkpoint_is_refused() -> None:
    assert figures("qwen2.5-72b-gptq-int4", 2, args={"quantization": "gptq_marlin"}).fits
    with pytest.raises(FitError, match="leave the flag out"):
        figures("qwen2.5-72b-gptq-int4", 2, args={"quantization": "fp8"})
    with pytest.raises(FitError, match="needs a checkpoint quantised so"):
        figures("llama-3.1-8b", args={"q": "gptq"})


def test_kv_cache_formats() -> None:
    assert figures("llama-3.1-8b", args={"kv_cache_dtype": "fp8"}).kv_bytes_per_token == 64 * 1024
    latent = figures("deepseek-v3", 8, 2, args={"kv_cache_dtype": "fp8_ds_mla"}, memory=140 * GIB)
    assert latent.kv_bytes_per_token == 61 * 656
    with pytest.raises(FitError, match="kv_cache_dtype: 'int4_per_token_head' is not understood"):
        figures("llama-3.1-8b", args={"kv-cache-dtype": "int4_per_token_head"})
    algorithm = {
        "quant_method": "modelopt",
        "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
    }
    assert model("llama-3.1-8b", quantization_config=algorithm).kv_bytes_per_token == 64 * 1024


def test_layers_that_see_a_window_alone_hold_longer_contexts() -> None:
    """Gemma 3: 10 layers of 62 keep every token; the groups are vLLM's own (7 of at most 10 layers)."""
    hybrid = figures("gemma-3-27b", 2)
    full = figures("llama-3.1-8b", 2)
    assert hybrid.kv_cache_bytes and hybrid.kv_tokens
    assert hybrid.kv_tokens > 2 * hybrid.kv_cache_bytes / (hybrid.kv_bytes_per_token / 2)
    assert full.kv_cache_bytes and full.kv_tokens
    assert full.kv_tokens <= full.kv_cache_bytes / (full.kv_bytes_per_token / 2)


def test_expert_parallelism_puts_whole_experts_on_a_gpu() -> None:
    sliced = figures("qwen3-235b-a22b", 8)
    whole = figures("qwen3-235b-a22b", 8, args={"enable_expert_parallel": True})
    assert sliced.weight_bytes_per_rank == whole.weight_bytes_per_rank  # 128 experts over 8 GPUs are even
    wide = figures("qwen3-235b-a22b", 8, args={"enable_expert_parallel": True, "data_parallel_size": 2})
    experts = 94 * 128 * 3 * 4_096 * 1_536 * 2
    assert wide.weight_bytes_per_rank and whole.weight_bytes_per_rank
    assert whole.weight_bytes_per_rank - wide.weight_bytes_per_rank == experts // 8 - experts // 16


def test_mla_keeps_its_latent_whole_on_every_gpu() -> None:
    assert (
        figures("deepseek-v3", 8, 2).kv_bytes_per_token_per_rank
        == figures("deepseek-v3", 16, 2).kv_bytes_per_token_per_rank
    )


def test_kv_heads_are_replicated_beyond_their_number() -> None:
    assert figures("llama-3.1-405b", 8).kv_bytes_per_token_per_rank == 64_512
    assert figures("llama-3.1-405b", 16).kv_bytes_per_token_per_rank == 64_512


@pytest.mark.parametrize(
    ("name", "tensor", "pipeline", "reason"),
    [
        ("llama-3.1-8b", 3, 1, "32 attention heads do not divide by 3"),
        ("qwen2.5-0.5b", 7, 1, "2 KV heads neither divide by 7 nor into it"),
        ("llama-3.1-8b", 1, 33, "32 layers cannot be 33 stages"),
        ("qwen2.5-72b-gptq-int4", 16, 1, "29,696 over 16 is 1,856, which gptq's blocks of 128 do not divide"),
        ("qwen3-235b-a22b-fp8", 8, 1, "1,536 over 8 is 192, which fp8's blocks of 128 do not divide"),
        ("smollm2-135m", 9, 1, "the intermediate size of 1,536 does not divide by 9"),
    ],
)
def test_why_a_split_is_impossible(name: str, tensor: int, pipeline: int, reason: str) -> None:
    found = figures(name, tensor, pipeline)
    assert (found.fits, found.weight_bytes_per_rank) == (False, None)
    assert reason in found.why


def test_a_vocabulary_that_cannot_be_divided() -> None:
    found = figures("smollm2-135m", 3, vocab_size=49_153)
    assert "the vocabulary of 49,153, padded to 49,216, does not divide by 3" in found.why


def test_expert_parallelism_makes_the_impossible_possible() -> None:
    assert figures("qwen3-235b-a22b-fp8", 8, args={"enable_expert_parallel": True}).fits


def test_what_does_not_fit_says_how_much_is_missing() -> None:
    found = figures("llama-3.1-405b", 8)
    assert (found.fits, found.kv_tokens, found.max_context) == (False, 0, 0)
    assert found.why == "weights and activations need 25.63 GiB more than a GPU has for them"


def test_a_context_that_does_not_fit_says_what_does() -> None:
    found = figures("llama-3.1-8b", memory=23.65 * GIB, args={"max_model_len": 131_072})
    assert found.fits is False
    assert found.max_context and 40_000 < found.max_context < 50_000
    assert f"hold {found.max_context:,} tokens of the 131,072 asked for" in found.why
    fitting = figures("llama-3.1-8b", memory=23.65 * GIB, args={"max_model_len": found.max_context})
    assert fitting.fits is True
    one_more = figures("llama-3.1-8b", memory=23.65 * GIB, args={"max_model_len": found.max_context + 1})
    assert one_more.fits is False


def test_a_context_is_bounded_by_the_positions_that_a_model_knows() -> None:
    assert figures("llama-3-8b").max_context == 8_192
    found = figures("llama-3-8b", args={"max_model_len": 16_384})
    assert (found.fits, found.why) == (False, "the model knows 8,192 positions, 16,384 are asked for")


def test_layers_of_a_stage_can_be_set() -> None:
    found = predict(
        config("deepseek-v2-lite"),
        None,
        tensor_parallel_size=1,
        pipeline_parallel_size=2,
        memory_bytes_per_gpu=80 * GIB,
        serve_args={},
        env={"VLLM_PP_LAYER_PARTITION": "20,7"},
        device="cuda",
    )
    assert found.kv_bytes_per_token_per_rank == 20 * 1_152


@pytest.mark.parametrize(
    ("layers", "size", "expected"),
    [(126, 4, [31, 32, 32, 31]), (61, 2, [31, 30]), (30, 4, [7, 8, 8, 7]), (80, 2, [40, 40])],
)
def test_layers_are_cut_as_vllm_cuts_them(layers: int, size: int, expected: list[int]) -> None:
    shape = read_shape(config("llama-3.1-8b", num_hidden_layers=layers))
    assert [len(part) for part in stages(shape, Split(1, size))] == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 1), (4, 2), (8, 3), (1, 5)])
def test_shards_make_up_at_least_the_whole(name: str, tensor: int, pipeline: int) -> None:
    read = model(name)
    split = Split(tensor, pipeline)
    sizes = stage_bytes(read.shape, read.loaded, split, read.checkpoint)
    assert tensor * sum(sizes) >= read.weight_bytes
    spare = tensor * pipeline * rotary_bytes(read.shape, read.loaded)
    assert sum(sizes) - spare <= read.weight_bytes * 1.3
    assert sum(len(part) for part in stages(read.shape, split)) == read.shape.num_hidden_layers


@given(
    memory=st.integers(1, 300),
    share=st.floats(0.05, 1),
    name=st.sampled_from(NAMES),
    sizes=st.sampled_from([(1, 1), (2, 2), (8, 1), (8, 2)]),
)
@settings(max_examples=60, deadline=None)
def test_more_memory_never_holds_less(memory: int, share: float, name: str, sizes: tuple[int, int]) -> None:
    args = {"gpu_memory_utilization": share, "max_num_seqs": 256, "max_num_batched_tokens": 2_048}
    less, more = (figures(name, *sizes, memory=gib * GIB, args=args) for gib in (memory, memory + 1))
    if less.kv_tokens is None:
        assert less.why.startswith("impossible")
        return
    assert more.max_context is not None and less.max_context is not None
    assert more.max_context >= less.max_context
    assert more.kv_cache_bytes is not None and less.kv_cache_bytes is not None
    assert more.kv_cache_bytes >= less.kv_cache_bytes
    assert bool(more.fits) >= bool(less.fits)


@given(tokens=st.integers(1, 8_000))
@settings(max_examples=30, deadline=None)
def test_what_is_said_to_fit_is_what_vllm_accepts(tokens: int) -> None:
    """vLLM's own check: whole blocks of a request, and one block that it keeps back."""
    room = 50 * 16 * 131_072
    found = figures("llama-3.1-8b", args={"kv_cache_memory_bytes": room, "max_model_len": tokens})
    assert found.fits is (-(-tokens // 16) <= 50 - 1)
    assert found.kv_tokens == int(50 / -(-tokens // 16) * tokens)


def test_tensors_bear_the_names_of_the_checkpoint() -> None:
    names = {tensor.name for tensor in layer_tensors(read_shape(config("llama-3.1-8b")), 3) if tensor.linear}
    assert names == {
        *(f"model.layers.3.self_attn.{part}_proj" for part in "qkvo"),
        *(f"model.layers.3.mlp.{part}_proj" for part in ("gate", "up", "down")),
    }


# --- why, for programs ----------------------------------------------------------------------------


def llama(
    args: Mapping[str, Any],
    tensor: int = 1,
    memory: int | None = 80 * GIB,
    env: Mapping[str, str] | None = None,
) -> Prediction:
    return predict(
        config("llama-3-8b"),
        None,
        tensor_parallel_size=tensor,
        pipeline_parallel_size=1,
        memory_bytes_per_gpu=memory,
        serve_args=args,
        env=env or {},
        device="cuda",
    )


def test_the_reason_has_a_code() -> None:
    assert llama({"max_model_len": 8_192}).reason == ""
    assert llama({"max_model_len": 8_192}, tensor=3).reason == "impossible"
    assert llama({"max_model_len": 8_193}).reason == "positions"
    assert llama({"max_model_len": 8_192}, memory=18 * GIB).reason == "memory"
    assert llama({"max_model_len": 8_192}, memory=8 * GIB).reason == "memory"
    assert llama({"max_model_len": 8_192}, memory=None).reason == "unknown"


def test_a_longer_context_than_the_model_knows_if_the_environment_allows_it() -> None:
    allowed = {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}
    found = llama({"max_model_len": 16_384}, env=allowed)
    assert (found.fits, found.why, found.max_model_len) == (True, "", 16_384)
    assert llama({"max_model_len": 16_384}, env={"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "0"}).fits is False
    assert llama({"max_model_len": 10**7}, env=allowed).reason == "memory"


def test_overrides_as_json() -> None:
    longer = {"max_model_len": 16_384, "hf_overrides": '{"max_position_embeddings": 32768}'}
    assert llama(longer).fits is True
    for wrong in ("{", "[1]", 3):
        with pytest.raises(FitError, match="hf_overrides: expected a mapping"):
            llama({"hf_overrides": wrong})


def test_without_the_hybrid_manager_every_layer_keeps_every_token() -> None:
    flag = {"disable_hybrid_kv_cache_manager": True}
    hybrid, uniform = (figures("gemma-3-27b", args=args) for args in ({}, flag))
    assert hybrid.kv_tokens and uniform.kv_tokens and uniform.kv_tokens < hybrid.kv_tokens
    # All layers alike have nothing to be unified.
    assert figures("mistral-7b-v0.1", args=flag) == figures("mistral-7b-v0.1")


def test_what_mxfp4_adds_is_said_to_be_left_out() -> None:
    assert figures("gpt-oss-20b").why == "not counted: padding of MXFP4"
    assert figures("llama-3.1-8b").why == ""


@pytest.mark.parametrize(
    "name",
    ["NVIDIA A100-SXM4-40GB MIG 1g.5gb", "GRID A100-40C", "NVIDIA A10-24Q", "A100-1-5C", "NVIDIA L40S-48Q"],
)
def test_a_part_of_a_gpu_is_not_the_whole(name: str) -> None:
    with pytest.raises(FitError, match="is a part of a GPU"):
        find_gpu(name)


def test_another_h100() -> None:
    for name in ("NVIDIA H100 96GB HBM3", "H100-64G", "H100 96GiB"):
        with pytest.raises(FitError, match="is not known"):
            find_gpu(name)
    for name in ("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "H100", "H100-80G"):
        assert find_gpu(name).name == "H100-80G"
