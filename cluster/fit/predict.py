"""What vLLM will make of a model on these GPUs: weights, KV cache, concurrency, and whether it starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from cluster.fit.kv_cache import KvCache, bytes_per_token, layer_bytes, make_cache
from cluster.fit.lengths import UNSTATED
from cluster.fit.overhead import Batch, activation_bytes, default_batch, non_torch_bytes
from cluster.fit.quantisation import MXFP4, Format, kv_cache_is_fp8, read_formats
from cluster.fit.settings import Device, Settings, read_settings
from cluster.fit.shape import Shape, decoder_of, read_shape
from cluster.fit.split import Split, why_impossible
from cluster.fit.weights import Checkpoint, checkpoint, parameters, stage_bytes

GIB = 2**30
Reason = Literal["", "impossible", "positions", "memory", "unknown"]


@dataclass(frozen=True)
class Model:
    """A model as vLLM would load it, independent of how it is split. `weight_bytes`: of the whole, once."""

    shape: Shape
    loaded: Format
    checkpoint: Checkpoint
    parameters: int
    weight_bytes: int
    kv_cache_dtype: str
    kv_bytes_per_token: int


@dataclass(frozen=True)
class Prediction:
    """Figures for one replica, in bytes and tokens; a rank is a GPU, and the fullest one counts.

    kv_tokens, max_concurrency: as vLLM prints them ("GPU KV cache size", "Maximum concurrency"), None where
    nothing says how much memory there is. max_model_len: the request length that they hold for. max_context:
    the longest request that fits, at most the model's own length. fits: would vLLM start; None where that is
    not known. why: the reason, for a person. reason: the same for programs, empty where it fits (`positions`:
    the model knows fewer than are asked for). shortened: max_model_len is less than the model's own, because
    the longest that fits was asked for. activation_bytes and non_torch_bytes are estimates (see
    `overhead`), and None on the CPU. An impossible split has no weights per rank.
    """

    parameters: int
    weight_bytes: int
    weight_bytes_per_rank: int | None
    activation_bytes: int | None
    non_torch_bytes: int | None
    kv_bytes_per_token: int
    kv_bytes_per_token_per_rank: int
    kv_cache_bytes: int | None
    kv_tokens: int | None
    max_concurrency: float | None
    max_model_len: int
    max_context: int | None
    fits: bool | None
    why: str
    shortened: bool = False
    reason: Reason = ""


def predict(
    config: Mapping[str, Any],
    index_bytes: int | None,
    *,
    tensor_parallel_size: int,
    pipeline_parallel_size: int,
    memory_bytes_per_gpu: int | None,
    serve_args: Mapping[str, Any],
    env: Mapping[str, str],
    device: Device,
    gpu: str = "",
) -> Prediction:
    """What vLLM will report for a model with these sizes; the inventory's `serve.args` and environment as
    they are.

    index_bytes: metadata.total_size of model.safetensors.index.json. memory_bytes_per_gpu: as CUDA reports
    it. gpu: its name; vLLM computes smaller batches on an A100. Raises FitError where config or settings are
    not understood.
    """
    settings = read_settings(serve_args, env, device)
    split = Split(
        tensor_parallel_size,
        pipeline_parallel_size,
        settings.data_parallel_size,
        settings.enable_expert_parallel,
        settings.layers_per_stage,
    )
    return predict_split(
        read_model(config, index_bytes, settings), split, settings, memory_bytes_per_gpu, gpu
    )


def read_model(config: Mapping[str, Any], index_bytes: int | None, settings: Settings) -> Model:
    """The model that a config.json describes. Raises FitError."""
    config = {**config, **(settings.hf_overrides or {})}
    shape, decoder = read_shape(config), decoder_of(config)
    if settings.disable_hybrid_kv_cache_manager and None in shape.windows:
        # Where layers differ, all of them keep every token (kv_cache_utils.py, unify_hybrid_kv_cache_specs).
        shape = replace(shape, windows=(None,) * shape.num_hidden_layers)
    stored, loaded = read_formats(config, decoder, settings.quantization, settings.dtype)
    cache_dtype = settings.kv_cache_dtype
    if cache_dtype == "auto" and kv_cache_is_fp8(config):
        cache_dtype = "fp8"
    whole = checkpoint(shape, stored, loaded, index_bytes)
    return Model(
        shape=shape,
        loaded=loaded,
        checkpoint=whole,
        parameters=parameters(shape),
        weight_bytes=whole.loaded + whole.beside,
        kv_cache_dtype=cache_dtype,
        kv_bytes_per_token=bytes_per_token(shape, cache_dtype, loaded.dtype_bytes),
    )


def predict_split(
    model: Model, split: Split, settings: Settings, memory: int | None, gpu: str = ""
) -> Prediction:
    """What vLLM will report for this split. Raises FitError."""
    impossible = why_impossible(model.shape, model.loaded, split)
    if impossible:
        return replace(_nothing(model, split, settings, f"impossible: {impossible}"), reason="impossible")
    batch = _batch(settings, split, memory or 0, gpu)
    cache = _cache(model, split, settings, batch)
    weights = _weights(model, split, settings)
    on_gpu = settings.device == "cuda"
    activations = activation_bytes(model.shape, split, batch, model.loaded.dtype_bytes)
    blank = replace(
        _nothing(model, split, settings, ""),
        weight_bytes_per_rank=max(weights),
        activation_bytes=activations if on_gpu else None,
        non_torch_bytes=non_torch_bytes(split) if on_gpu else None,
        kv_bytes_per_token_per_rank=max(len(part) for part in cache.stages) * cache.layer_bytes,
    )
    available = _available(blank, settings, memory, weights)
    if available is None:
        return replace(blank, fits=None, why=_unknown_memory(settings), reason="unknown")
    return _with_cache(blank, cache, available, settings, model)


def _nothing(model: Model, split: Split, settings: Settings, why: str) -> Prediction:
    layer_size = layer_bytes(
        model.shape, model.kv_cache_dtype, model.loaded.dtype_bytes, split.tensor_parallel_size
    )
    return Prediction(
        parameters=model.parameters,
        weight_bytes=model.weight_bytes,
        weight_bytes_per_rank=None,
        activation_bytes=None,
        non_torch_bytes=None,
        kv_bytes_per_token=model.kv_bytes_per_token,
        kv_bytes_per_token_per_rank=-(-model.shape.num_hidden_layers // split.pipeline_parallel_size)
        * layer_size,
        kv_cache_bytes=None,
        kv_tokens=None,
        max_concurrency=None,
        max_model_len=_asked(settings, model.shape),
        max_context=None,
        fits=False,
        why=why,
    )


def _weights(model: Model, split: Split, settings: Settings) -> tuple[int, ...]:
    sizes = stage_bytes(model.shape, model.loaded, split, model.checkpoint)
    return tuple(max(0, size - settings.cpu_offload_bytes) for size in sizes)


def _batch(settings: Settings, split: Split, memory: int, gpu: str) -> Batch:
    usual = default_batch(memory, gpu)
    if settings.device == "cpu":
        usual = Batch(2_048 * split.world_size, 128 * split.world_size)
    return Batch(settings.max_num_batched_tokens or usual.tokens, settings.max_num_seqs or usual.sequences)


def _cache(model: Model, split: Split, settings: Settings, batch: Batch) -> KvCache:
    """Blocks of 16 tokens; 128 on the CPU (vllm/platforms/cpu.py), 64 with MLA (FlashMLA's kernel block)."""
    on_cpu, latent = settings.device == "cpu", model.shape.latent is not None
    usual = (16 if latent else 128) if on_cpu else (64 if latent else 16)
    concurrent = split.pipeline_parallel_size + (0 if on_cpu else 1)
    size = layer_bytes(
        model.shape, model.kv_cache_dtype, model.loaded.dtype_bytes, split.tensor_parallel_size
    )
    return make_cache(model.shape, split, size, settings.block_size or usual, concurrent * batch.tokens)


def _available(
    blank: Prediction, settings: Settings, memory: int | None, weights: tuple[int, ...]
) -> list[int] | None:
    """Bytes for the KV cache on a GPU of every stage, None where nothing says how many.

    Source: vllm/v1/worker/gpu_worker.py, determine_available_memory.
    """
    if settings.kv_cache_memory_bytes is not None:
        return [settings.kv_cache_memory_bytes] * len(weights)
    if memory is None or blank.activation_bytes is None or blank.non_torch_bytes is None:
        return None
    room = int(memory * settings.gpu_memory_utilization) - blank.activation_bytes - blank.non_torch_bytes
    return [room - size for size in weights]


def _unknown_memory(settings: Settings) -> str:
    if settings.device == "cpu":
        return "on the CPU the KV cache depends on free memory: set serve.args.kv_cache_memory_bytes"
    return "the GPU's memory is not known: name it (--gpu, or nodes[].gpu_model in the inventory)"


def _with_cache(
    blank: Prediction, cache: KvCache, available: list[int], settings: Settings, model: Model
) -> Prediction:
    blocks = settings.num_gpu_blocks_override or cache.blocks(available)
    asked = blank.max_model_len
    known = max(model.shape.max_position, asked if settings.allow_long_max_model_len else 0)
    longest = cache.longest(blocks, known)
    if settings.max_model_len == -1:
        asked = min(asked, max(longest, UNSTATED))
    shortened = asked < blank.max_model_len
    reason: Reason = "memory" if min(available) <= 0 or asked > longest else ""
    if min(available) > 0 and asked > known:
        reason = "positions"
    concurrency = blocks / cache.blocks_of_a_request(asked)
    return replace(
        blank,
        kv_cache_bytes=max(0, min(available)),
        kv_tokens=int(concurrency * asked),
        max_concurrency=round(concurrency, 2),
        max_model_len=asked,
        max_context=longest,
        fits=not reason,
        reason=reason,
        why=_why(min(available), asked, longest, known, model, settings),
        shortened=shortened,
    )


def _why(available: int, asked: int, longest: int, known: int, model: Model, settings: Settings) -> str:
    if available <= 0:
        return f"weights and activations need {-available / GIB:.2f} GiB more than a GPU has for them"
    if asked > known:
        return f"the model knows {model.shape.max_position:,} positions, {asked:,} are asked for"
    if asked > longest:
        return (
            f"{available / GIB:.2f} GiB for the KV cache hold {longest:,} tokens of the {asked:,} asked for"
        )
    own, notes = model.shape.default_max_model_len, []
    if settings.max_model_len == -1 and asked < own:
        notes.append(f"set max_model_len to at most {asked:,}: the model's own {own:,} do not fit")
    left_out = (*settings.beside, *_left_out(model))
    if left_out:
        notes.append(f"not counted: {', '.join(left_out)}")
    return "; ".join(notes)


def _left_out(model: Model) -> Iterator[str]:
    """What the weights' bytes lack."""
    if model.shape.other_modalities and not model.checkpoint.beside:
        yield "encoders of other modalities"
    quantisation = model.loaded.quantisation
    if quantisation and quantisation.method in MXFP4:
        # Kernels round the experts' sizes up, by another multiple on each generation of GPUs.
        yield "padding of MXFP4"


def _asked(settings: Settings, shape: Shape) -> int:
    """The request length: max_model_len, or the model's own."""
    if settings.max_model_len in (None, -1):
        return shape.default_max_model_len
    return settings.max_model_len or shape.default_max_model_len
