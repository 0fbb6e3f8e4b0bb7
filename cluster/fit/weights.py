"""Parameters, and the bytes that a GPU holds of them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from cluster.fit.quantisation import Format
from cluster.fit.reasons import FitError
from cluster.fit.shape import Shape
from cluster.fit.split import Split, padded_vocabulary, stages
from cluster.fit.tensors import Tensor, embedding, head, layer_tensors, prediction_layer_tensors

# Between config.json's arithmetic and a checkpoint's bytes; beyond it they are not the same model.
PLAUSIBLE = (Fraction(4, 5), Fraction(5, 4))


@dataclass(frozen=True)
class Checkpoint:
    """The bytes of the whole model, and what the index says against the arithmetic.

    loaded: bytes of what vLLM loads, once. scale: the index's bytes over the arithmetic's, 1 without an
    index. beside: bytes of encoders for other modalities, known from the index alone.
    """

    loaded: int
    scale: Fraction
    beside: int


@lru_cache(maxsize=64)
def parameters(shape: Shape) -> int:
    """Parameters that are loaded, as model cards count them: tied embeddings once, no prediction layers."""
    return sum(tensor.parameters for tensor in _tensors(shape))


@lru_cache(maxsize=64)
def checkpoint(shape: Shape, stored: Format, loaded: Format, index_bytes: int | None) -> Checkpoint:
    """The whole model in bytes; `index_bytes` is metadata.total_size of model.safetensors.index.json.

    Raises FitError where that is not this model's.
    """
    arithmetic = _bytes(_tensors(shape), stored)
    in_memory = _bytes(_tensors(shape), loaded)
    if index_bytes is None:
        return Checkpoint(int(in_memory), Fraction(1), 0)
    extra = _bytes(prediction_layer_tensors(shape), stored) * shape.num_nextn_predict_layers
    # Some checkpoints of a model with prediction layers leave them out: the nearer one it is.
    expected = min((arithmetic + extra, arithmetic), key=lambda size: abs(size - index_bytes))
    if shape.other_modalities and index_bytes >= expected:
        return Checkpoint(int(in_memory), Fraction(1), int(index_bytes - expected))
    scale = index_bytes / Fraction(expected)
    if not PLAUSIBLE[0] <= scale <= PLAUSIBLE[1]:
        raise FitError(
            f"model.safetensors.index.json: total_size is {index_bytes:,} bytes, and config.json makes "
            f"{int(expected):,}: they do not belong together, or config.json is not understood"
        )
    return Checkpoint(int(in_memory * scale), scale, 0)


@lru_cache(maxsize=1_024)
def stage_bytes(shape: Shape, loaded: Format, split: Split, whole: Checkpoint) -> tuple[int, ...]:
    """Bytes on the heaviest GPU of every pipeline stage, the rotary embedding's table included."""
    parts = stages(shape, split)
    sizes = [
        sum(_rank_bytes(t, shape, loaded, split) for layer in part for t in layer_tensors(shape, layer))
        for part in parts
    ]
    ends = _rank_bytes(embedding(shape), shape, loaded, split)
    sizes[0] += ends
    norm, lm_head = head(shape)
    sizes[-1] += _rank_bytes(norm, shape, loaded, split)
    if not shape.tied or len(parts) > 1:
        sizes[-1] += _rank_bytes(lm_head, shape, loaded, split)
    beside = [whole.beside, *([0] * (len(parts) - 1))]
    return tuple(
        -int(-(size * whole.scale) // 1)
        + own
        + rotary_bytes(shape, loaded)
        + absorbed_bytes(shape, part, split)
        for size, own, part in zip(sizes, beside, parts, strict=True)
    )


def rotary_bytes(shape: Shape, loaded: Format) -> int:
    """The table of cosines and sines, one for all layers, not divided by tensor parallelism.

    It is why vLLM reports 14.99 GiB for Llama 3.1 8B (131,072 positions) and 14.96 GiB for Llama 3 8B
    (8,192).
    """
    return shape.max_position * shape.rotary_dim * loaded.dtype_bytes


def absorbed_bytes(shape: Shape, layers: range, split: Split) -> int:
    """MLA keeps kv_b_proj a second time, unquantised, to fold it into queries and outputs when decoding.

    Source: vllm/model_executor/layers/attention/mla_attention.py, process_weights_after_loading.
    """
    latent = shape.latent
    if latent is None:
        return 0
    width = shape.num_attention_heads * (latent.qk_nope_head_dim + latent.v_head_dim)
    return len(layers) * latent.kv_lora_rank * width * 2 // split.tensor_parallel_size


def _tensors(shape: Shape) -> tuple[Tensor, ...]:
    norm, lm_head = head(shape)
    layers = [tensor for layer in range(shape.num_hidden_layers) for tensor in layer_tensors(shape, layer)]
    return (embedding(shape), *layers, norm, *(() if shape.tied else (lm_head,)))


def _bytes(tensors: tuple[Tensor, ...], form: Format) -> Fraction:
    return sum((form.bytes_per_parameter(t.name, t.linear) * t.parameters for t in tensors), Fraction(0))


def _rank_bytes(tensor: Tensor, shape: Shape, loaded: Format, split: Split) -> Fraction:
    return _rank_parameters(tensor, shape, split) * loaded.bytes_per_parameter(tensor.name, tensor.linear)


def _rank_parameters(tensor: Tensor, shape: Shape, split: Split) -> int:
    """Parameters of this tensor on the GPU that has most of them."""
    tensor_parallel = split.tensor_parallel_size
    if tensor.shard == "whole":
        return tensor.parameters
    if tensor.shard == "kv":
        heads = max(1, -(-shape.num_key_value_heads // tensor_parallel))
        return tensor.parameters // shape.num_key_value_heads * heads
    if tensor.shard == "vocabulary":
        return -(-padded_vocabulary(shape) // tensor_parallel) * shape.hidden_size
    if tensor.shard == "expert" and shape.experts:
        if split.expert_parallel:
            return tensor.parameters // shape.experts.number * -(-shape.experts.number // split.expert_ranks)
        return -(-tensor.parameters // split.expert_ranks)
    return -(-tensor.parameters // tensor_parallel)
