"""A model's weights, tensor by tensor, with how vLLM spreads each over the GPUs of a tensor parallel group.

Source: vllm/model_executor/models/{llama,qwen2,qwen3,qwen3_moe,mixtral,deepseek_v2,gemma3,gpt_oss}.py and
layers/linear.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from cluster.fit.experts import Experts
from cluster.fit.shape import Latent, Shape

# tensor: an equal part per rank; kv: whole key-value heads, replicated where there are fewer than ranks;
# expert: parts of all experts, or whole ones with expert parallelism; vocabulary: padded rows; whole: a copy.
Shard = Literal["tensor", "kv", "expert", "vocabulary", "whole"]


@dataclass(frozen=True)
class Tensor:
    """`name` as in the checkpoint, without `.weight`; `linear`: a matrix that may be quantised."""

    name: str
    parameters: int
    shard: Shard
    linear: bool = False


@lru_cache(maxsize=4_096)
def layer_tensors(shape: Shape, layer: int) -> tuple[Tensor, ...]:
    """The weights of one decoder layer."""
    prefix = f"model.layers.{layer}"
    attention = _latent_attention(shape, shape.latent, f"{prefix}.self_attn") if shape.latent else None
    return (
        *(attention or _attention(shape, f"{prefix}.self_attn")),
        *_feed_forward(shape, layer, f"{prefix}.mlp"),
        Tensor(f"{prefix}.layernorms", shape.norms_per_layer * shape.hidden_size, "whole"),
    )


def embedding(shape: Shape) -> Tensor:
    """The token embedding, on the first pipeline stage."""
    return Tensor("model.embed_tokens", shape.vocab_size * shape.hidden_size, "vocabulary")


def head(shape: Shape) -> tuple[Tensor, ...]:
    """What the last pipeline stage has after its layers; a tied head is the embedding again."""
    norm = Tensor("model.norm", shape.hidden_size, "whole")
    return (norm, Tensor("lm_head", shape.vocab_size * shape.hidden_size, "vocabulary"))


def prediction_layer_tensors(shape: Shape) -> tuple[Tensor, ...]:
    """One multi-token-prediction layer: a decoder layer, its projection, copies of embedding and head.

    It lies in the checkpoint and is not loaded without speculative decoding (arXiv:2412.19437, section 2.2).
    """
    hidden = shape.hidden_size
    last = shape.num_hidden_layers - 1
    return (
        *layer_tensors(shape, last),
        Tensor("eh_proj", 2 * hidden * hidden, "whole"),
        Tensor("norms", 3 * hidden, "whole"),
        Tensor("embed_tokens", shape.vocab_size * hidden, "vocabulary"),
        Tensor("shared_head", shape.vocab_size * hidden, "vocabulary"),
    )


def _attention(shape: Shape, prefix: str) -> Iterator[Tensor]:
    hidden, d = shape.hidden_size, shape.head_dim
    q, kv = shape.num_attention_heads * d, shape.num_key_value_heads * d
    yield Tensor(f"{prefix}.q_proj", hidden * q, "tensor", linear=True)
    yield Tensor(f"{prefix}.k_proj", hidden * kv, "kv", linear=True)
    yield Tensor(f"{prefix}.v_proj", hidden * kv, "kv", linear=True)
    yield Tensor(f"{prefix}.o_proj", q * hidden, "tensor", linear=True)
    if shape.qkv_bias:
        yield Tensor(f"{prefix}.q_proj.bias", q, "tensor")
        yield Tensor(f"{prefix}.kv_proj.bias", 2 * kv, "kv")
    if shape.output_bias:
        yield Tensor(f"{prefix}.o_proj.bias", hidden, "whole")
    if shape.qk_norm != "none":
        yield Tensor(f"{prefix}.qk_norm", 2 * d if shape.qk_norm == "head" else q + kv, "whole")
    if shape.model_type == "gpt_oss":
        yield Tensor(f"{prefix}.sinks", shape.num_attention_heads, "tensor")


def _latent_attention(shape: Shape, latent: Latent, prefix: str) -> Iterator[Tensor]:
    """The projections down are whole on every GPU: only heads are divided."""
    hidden, heads = shape.hidden_size, shape.num_attention_heads
    q_width = heads * (latent.qk_nope_head_dim + latent.qk_rope_head_dim)
    rank = latent.q_lora_rank
    if rank is None:
        yield Tensor(f"{prefix}.q_proj", hidden * q_width, "tensor", linear=True)
    else:
        yield Tensor(f"{prefix}.q_a_proj", hidden * rank, "whole", linear=True)
        yield Tensor(f"{prefix}.q_a_layernorm", rank, "whole")
        yield Tensor(f"{prefix}.q_b_proj", rank * q_width, "tensor", linear=True)
    down = hidden * (latent.kv_lora_rank + latent.qk_rope_head_dim)
    up = latent.kv_lora_rank * heads * (latent.qk_nope_head_dim + latent.v_head_dim)
    yield Tensor(f"{prefix}.kv_a_proj_with_mqa", down, "whole", linear=True)
    yield Tensor(f"{prefix}.kv_a_layernorm", latent.kv_lora_rank, "whole")
    yield Tensor(f"{prefix}.kv_b_proj", up, "tensor", linear=True)
    yield Tensor(f"{prefix}.o_proj", heads * latent.v_head_dim * hidden, "tensor", linear=True)


def _feed_forward(shape: Shape, layer: int, prefix: str) -> Iterator[Tensor]:
    if shape.sparse[layer] and shape.experts:
        yield from _experts(shape, shape.experts, prefix)
        return
    yield from _gated(f"{prefix}", shape.hidden_size, shape.intermediate_size)
    if shape.mlp_bias:
        yield Tensor(f"{prefix}.gate_up_proj.bias", 2 * shape.intermediate_size, "tensor")
        yield Tensor(f"{prefix}.down_proj.bias", shape.hidden_size, "whole")


def _experts(shape: Shape, experts: Experts, prefix: str) -> Iterator[Tensor]:
    hidden, size = shape.hidden_size, experts.intermediate_size
    yield Tensor(f"{prefix}.gate", hidden * experts.number, "whole")
    if experts.router_bias:
        yield Tensor(f"{prefix}.gate.bias", experts.number, "whole")
    yield Tensor(f"{prefix}.experts", experts.number * 3 * hidden * size, "expert", linear=True)
    if experts.biases:
        yield Tensor(f"{prefix}.experts.bias", experts.number * (2 * size + hidden), "expert")
    if experts.shared_intermediate_size:
        yield from _gated(f"{prefix}.shared_experts", hidden, experts.shared_intermediate_size)
    if experts.shared_gate:
        yield Tensor(f"{prefix}.shared_expert_gate", hidden, "whole")


def _gated(prefix: str, hidden: int, size: int) -> Iterator[Tensor]:
    for name in ("gate_proj", "up_proj", "down_proj"):
        yield Tensor(f"{prefix}.{name}", hidden * size, "tensor", linear=True)
