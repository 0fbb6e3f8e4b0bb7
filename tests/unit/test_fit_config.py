"""Foreign text in `clusterctl fit`: figures or a reason, never a traceback."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.fit import FitError, predict
from cluster.fit.gpus import CATALOGUE, find_gpu
from cluster.fit.quantisation import read_formats
from cluster.fit.settings import human_readable_int, read_settings
from cluster.fit.shape import read_shape

MODELS = Path(__file__).parent / "models"
CONFIGS = {file.stem: json.loads(file.read_text()) for file in sorted(MODELS.glob("*.json"))}
LLAMA = CONFIGS["llama-3.1-8b"]
KEYS = sorted({key for config in CONFIGS.values() for key in config})
QUANTISATION_KEYS = [
    "quant_method",
    "bits",
    "group_size",
    "weight_block_size",
    "config_groups",
    "ignore",
    "dynamic",
]
FLAGS = ["max_model_len", "block-size", "kv_cache_dtype", "gpu_memory_utilization", "quantization", "dtype"]
FLAGS += ["data_parallel_size", "max_num_seqs", "hf_overrides", "cpu_offload_gb", "kv_cache_memory_bytes"]
METHODS = ["gptq", "awq", "fp8", "compressed-tensors", "bitsandbytes", "mxfp4", "modelopt", "quark"]
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
SIZES = st.integers(-2, 300) | st.just(2**40)


def whatever(config: Any, **args: Any) -> None:
    """Figures, or a reason."""
    with suppress(FitError):
        found = predict(
            config,
            args.pop("index", None),
            tensor_parallel_size=2,
            pipeline_parallel_size=2,
            memory_bytes_per_gpu=80 * 2**30,
            serve_args=args,
            env={},
            device="cuda",
        )
        assert found.parameters > 0 and found.weight_bytes > 0


@given(st.dictionaries(st.sampled_from(KEYS), ANY))
@settings(max_examples=40, deadline=None)
def test_any_mapping(config: dict[str, Any]) -> None:
    whatever(config)


@given(
    st.sampled_from(sorted(CONFIGS)),
    st.dictionaries(st.sampled_from(KEYS), ANY | SIZES, max_size=3),
    st.none() | st.integers(-5, 2**45),
)
@settings(max_examples=40, deadline=None)
def test_known_models_with_absurd_values(name: str, changes: dict[str, Any], index: int | None) -> None:
    whatever({**CONFIGS[name], **changes}, index=index)


@given(
    st.sampled_from(METHODS),
    st.dictionaries(st.sampled_from(QUANTISATION_KEYS), ANY | SIZES | st.lists(st.text(), max_size=3)),
)
@settings(max_examples=40, deadline=None)
def test_any_quantisation(method: str, changes: dict[str, Any]) -> None:
    whatever({**LLAMA, "quantization_config": {"quant_method": method, **changes}})


@given(st.dictionaries(st.sampled_from(FLAGS), ANY | SIZES))
@settings(max_examples=40, deadline=None)
def test_any_flags(args: dict[str, Any]) -> None:
    whatever(LLAMA, **args)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_size": None}, "config.json: hidden_size: is missing"),
        ({"hidden_size": "4096"}, "hidden_size: expected a whole number from 1 to 2,147,483,647, got '4096'"),
        ({"num_attention_heads": True}, "num_attention_heads: expected a whole number"),
        ({"num_hidden_layers": 100_000}, "num_hidden_layers: expected a whole number from 1 to 2,000"),
        ({"num_key_value_heads": 5}, "num_key_value_heads: 5 does not divide num_attention_heads 32"),
        ({"hidden_size": 16}, "hidden_size: 16 is smaller than num_attention_heads 32"),
        ({"model_type": "mamba2"}, "model_type: 'mamba2' is not one whose memory is known here; known are "),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings: expected true or false"),
        ({"use_sliding_window": True}, "use_sliding_window: true is not understood here"),
        ({"layer_types": ["linear_attention"] * 32}, "layer_types: expected 32 of full_attention"),
        ({"torch_dtype": "float8"}, "torch_dtype: expected one of float32"),
        ({"rope_scaling": {"type": "linear", "factor": "x"}}, "rope_scaling.factor: expected a number"),
        ({"partial_rotary_factor": 2}, "partial_rotary_factor: expected a number from 0 to 1"),
        ({"rope_scaling": [1]}, "rope_scaling: expected a mapping, got a list"),
        ({"quantization_config": {"quant_method": "aqlm"}}, "quant_method: 'aqlm' is not understood here"),
        ({"quantization_config": {"quant_method": "fp8", "ignored_layers": ["re:("]}}, "is no pattern"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": 128}}, "expected two numbers"),
        (
            {"quantization_config": {"quant_method": "gptq", "dynamic": {"a": 1}}},
            "formats that differ by layer",
        ),
        (
            {"quantization_config": {"quant_method": "compressed-tensors"}},
            "expected one format of weights, got 0",
        ),
        (
            {"quantization_config": {"quant_method": "modelopt", "quant_algo": "W4A8"}},
            "'W4A8' is not understood",
        ),
    ],
)
def test_reasons(changes: dict[str, Any], reason: str) -> None:
    config = {**LLAMA, **changes}
    with pytest.raises(FitError) as error:
        read_shape(config), read_formats(config, config, None, None)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (
            {"max_model_len": "long"},
            "serve.args.max_model_len: expected a whole number such as 8192 or 8k, got 'long'",
        ),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization: expected a number from 0 to 1, got 1.5"),
        ({"gpu_memory_utilization": 0}, "expected a number above 0"),
        ({"decode_context_parallel_size": 2}, "a divided KV cache is not understood"),
        ({"dtype": ["x"]}, "serve.args.dtype: expected text, got a list"),
    ],
)
def test_reasons_of_flags(args: dict[str, Any], reason: str) -> None:
    with pytest.raises(FitError) as error:
        read_settings(args, {}, "cuda")
    assert reason in str(error.value)


def test_environment() -> None:
    space = {"VLLM_CPU_KVCACHE_SPACE": "4"}
    assert read_settings({}, space, "cpu").kv_cache_memory_bytes == 4 * 2**30
    assert read_settings({}, space, "cuda").kv_cache_memory_bytes is None
    with pytest.raises(FitError, match="VLLM_CPU_KVCACHE_SPACE: expected a whole number of GiB"):
        read_settings({}, {"VLLM_CPU_KVCACHE_SPACE": "4g"}, "cpu")
    assert read_settings({}, {"VLLM_PP_LAYER_PARTITION": "31,30"}, "cuda").layers_per_stage == (31, 30)
    with pytest.raises(FitError, match="VLLM_PP_LAYER_PARTITION"):
        read_settings({}, {"VLLM_PP_LAYER_PARTITION": "31;30"}, "cuda")


def test_on_the_cpu_without_a_size_nothing_is_known() -> None:
    found = predict(
        LLAMA,
        None,
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        memory_bytes_per_gpu=None,
        serve_args={},
        env={},
        device="cpu",
    )
    assert (found.fits, found.kv_tokens) == (None, None)
    assert "kv_cache_memory_bytes" in found.why


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("256M", 256 * 2**20),
        ("1G", 2**30),
        ("1g", 10**9),
        ("25.6k", 25_600),
        ("1K", 1_024),
        ("8192", 8_192),
        ("1.5G", None),
        ("1GiB", None),
        ("", None),
    ],
)
def test_numbers_as_vllm_reads_them(text: str, number: int | None) -> None:
    assert human_readable_int(text) == number


def test_other_spellings_and_models_inside_models() -> None:
    nested = {"model_type": "mistral3", "text_config": {**CONFIGS["mistral-7b-v0.1"]}, "vision_config": {}}
    assert read_shape(nested).other_modalities
    assert read_shape(nested).windows == (4_096,) * 32
    overridden = read_settings({"hf-overrides": {"num_hidden_layers": 16}, "dp": 2, "ep": True}, {}, "cuda")
    assert (overridden.data_parallel_size, overridden.enable_expert_parallel) == (2, True)
    assert overridden.hf_overrides == {"num_hidden_layers": 16}


def test_lengths_follow_rope_scaling_as_in_vllm() -> None:
    linear = {**LLAMA, "rope_scaling": {"type": "linear", "factor": 4.0}, "max_position_embeddings": 4_096}
    assert read_shape(linear).max_position == 16_384
    yarn = {**LLAMA, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "max_position_embeddings": 4_096}
    assert read_shape(yarn).max_position == 4_096
    long = {**LLAMA, "rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4_096}
    assert (read_shape(long).default_max_model_len, read_shape(long).max_position) == (4_096, 131_072)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("H100-80G", "H100-80G"),
        ("h100", "H100-80G"),
        ("NVIDIA H100 80GB HBM3", "H100-80G"),
        ("NVIDIA H100 PCIe", "H100-80G"),
        ("NVIDIA H100 NVL", "H100-94G"),
        ("NVIDIA H200", "H200-141G"),
        ("NVIDIA A100-SXM4-80GB", "A100-80G"),
        ("NVIDIA A100 80GB PCIe", "A100-80G"),
        ("NVIDIA A100-SXM4-40GB", "A100-40G"),
        ("NVIDIA L40S", "L40S-48G"),
        ("NVIDIA L40", "L40-48G"),
        ("NVIDIA L4", "L4-24G"),
        ("NVIDIA A10G", "A10-24G"),
        ("Tesla T4", "T4-16G"),
        ("Tesla V100-SXM2-32GB", "V100-32G"),
        ("NVIDIA GeForce RTX 4090", "RTX4090-24G"),
        ("NVIDIA GeForce RTX 3090 Ti", "RTX3090-24G"),
        ("NVIDIA RTX A6000", "A6000-48G"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX6000Ada-48G"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTXPRO6000-96G"),
        ("NVIDIA B200", "B200-180G"),
        ("AMD Instinct MI300X", "MI300X-192G"),
    ],
)
def test_gpus_by_their_names(text: str, name: str) -> None:
    assert find_gpu(text).name == name


@pytest.mark.parametrize("gpu", CATALOGUE, ids=lambda gpu: gpu.name)
def test_the_catalogue_finds_itself_and_stays_below_the_name(gpu: Any) -> None:
    assert find_gpu(gpu.name) is gpu
    nominal = int(gpu.name.rpartition("-")[2][:-1])
    assert 0.9 * nominal < gpu.memory_bytes / 2**30 * (1 if nominal < 140 else 1.02) <= 1.02 * nominal


@pytest.mark.parametrize(
    ("text", "size"), [("23.65GiB", 25_393_994_137), ("80 GB", 80 * 10**9), ("512MiB", 2**29)]
)
def test_own_sizes(text: str, size: int) -> None:
    assert find_gpu(text).memory_bytes == size


@pytest.mark.parametrize(
    "text", ["", "80", "A100", "H1000", "GiB", "-1GiB", "NVIDIA GeForce RTX 4090 Laptop GPU"]
)
def test_unknown_gpus(text: str) -> None:
    with pytest.raises(FitError, match="is not known; take a size as CUDA reports it"):
        find_gpu(text)
