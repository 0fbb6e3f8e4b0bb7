"""What a model's config.json says about its sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cluster.fit.experts import Experts, read_experts, sparse_layers
from cluster.fit.families import FAMILIES, Family
from cluster.fit.fields import section, text, texts, whole, whole_or_none, yes
from cluster.fit.lengths import read_lengths
from cluster.fit.reasons import FitError

# Of one layer, in tokens; None attends to everything.
Window = int | None


@dataclass(frozen=True)
class Latent:
    """The ranks and head sizes of multi-head latent attention (arXiv:2405.04434); q_lora_rank None: q is
    whole.
    """

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes, named as in config.json. `windows` and `sparse` have one entry per layer.

    max_position: tokens that its rotary embedding knows, the most that vLLM takes as max_model_len.
    default_max_model_len: what vLLM takes where none is set. other_modalities: it has encoders beside the
    decoder, whose parameters are not in here.
    """

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tied: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: Literal["none", "head", "width"]
    norms_per_layer: int
    windows: tuple[Window, ...]
    sparse: tuple[bool, ...]
    experts: Experts | None
    latent: Latent | None
    num_nextn_predict_layers: int
    max_position: int
    default_max_model_len: int
    rotary_dim: int
    other_modalities: bool


def decoder_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part that says how large the decoder is: `text_config` where a model has other modalities too."""
    return section(config, "text_config") or config


def read_shape(config: Mapping[str, Any]) -> Shape:
    """The sizes that a config.json gives. Raises FitError for what is not understood."""
    decoder = decoder_of(config)
    model_type = text(decoder, "model_type")
    family = FAMILIES.get(model_type)
    if family is None:
        raise FitError(
            f"config.json: model_type: {model_type!r} is not one whose memory is known here; "
            f"known are {', '.join(sorted(FAMILIES))}"
        )
    return _shape({**family.defaults, **_without_null(decoder)}, config, model_type, family)


def _shape(decoder: Mapping[str, Any], config: Mapping[str, Any], model_type: str, family: Family) -> Shape:
    layers, heads = whole(decoder, "num_hidden_layers", at_most=2_000), whole(decoder, "num_attention_heads")
    latent = _read_latent(decoder) if family.latent else None
    head_dim, lengths = 0 if latent else _head_dim(decoder, heads), read_lengths(decoder)
    sparse, bias = sparse_layers(decoder, layers, family.experts), yes(decoder, "attention_bias", False)
    return Shape(
        model_type=model_type,
        hidden_size=whole(decoder, "hidden_size"),
        intermediate_size=whole(decoder, "intermediate_size"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=_kv_heads(decoder, heads),
        head_dim=head_dim,
        vocab_size=whole(decoder, "vocab_size"),
        tied=yes(decoder, "tie_word_embeddings", default=family.tied),
        qkv_bias=family.qkv_bias or bias,
        output_bias=family.output_bias or (bias and model_type != "glm4_moe"),
        mlp_bias=yes(decoder, "mlp_bias", default=False),
        qk_norm="head" if yes(decoder, "use_qk_norm", default=False) else family.qk_norm,
        norms_per_layer=family.norms_per_layer,
        windows=_windows(decoder, layers, family),
        sparse=sparse,
        experts=read_experts(decoder, model_type) if any(sparse) else None,
        latent=latent,
        num_nextn_predict_layers=whole_or_none(decoder, "num_nextn_predict_layers") or 0,
        max_position=lengths.most,
        default_max_model_len=lengths.default,
        rotary_dim=latent.qk_rope_head_dim if latent else max(1, int(head_dim * lengths.rotary_share)),
        other_modalities=decoder_of(config) is not config or "vision_config" in config,
    )


def _without_null(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in config.items() if value is not None}


def _kv_heads(decoder: Mapping[str, Any], heads: int) -> int:
    kv_heads = whole(decoder, "num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise FitError(
            f"config.json: num_key_value_heads: {kv_heads} does not divide num_attention_heads {heads}"
        )
    return kv_heads


def _head_dim(decoder: Mapping[str, Any], heads: int) -> int:
    hidden = whole(decoder, "hidden_size")
    head_dim = whole_or_none(decoder, "head_dim") or hidden // heads
    if head_dim == 0:
        raise FitError(f"config.json: hidden_size: {hidden} is smaller than num_attention_heads {heads}")
    return head_dim


def _read_latent(decoder: Mapping[str, Any]) -> Latent:
    return Latent(
        q_lora_rank=whole_or_none(decoder, "q_lora_rank"),
        kv_lora_rank=whole(decoder, "kv_lora_rank"),
        qk_nope_head_dim=whole(decoder, "qk_nope_head_dim"),
        qk_rope_head_dim=whole(decoder, "qk_rope_head_dim"),
        v_head_dim=whole(decoder, "v_head_dim"),
    )


def _windows(decoder: Mapping[str, Any], layers: int, family: Family) -> tuple[Window, ...]:
    if yes(decoder, "use_sliding_window", default=False):
        raise FitError(
            "config.json: use_sliding_window: true is not understood here; vLLM's rule differs by model"
        )
    kinds = texts(decoder, "layer_types")
    if kinds and (len(kinds) != layers or set(kinds) - {"full_attention", "sliding_attention"}):
        raise FitError(
            f"config.json: layer_types: expected {layers} of full_attention and sliding_attention; "
            "models with other kinds of layers are not understood here"
        )
    if not kinds:
        kinds = _usual_kinds(decoder, layers, family)
    if "sliding_attention" not in kinds:
        return (None,) * layers
    window = whole(decoder, "sliding_window")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _usual_kinds(decoder: Mapping[str, Any], layers: int, family: Family) -> tuple[str, ...]:
    if family.windowed and whole_or_none(decoder, "sliding_window"):
        return ("sliding_attention",) * layers
    pattern = whole(decoder, "sliding_window_pattern", default=family.pattern) if family.pattern else 1
    return tuple(
        "full_attention" if (layer + 1) % pattern == 0 else "sliding_attention" for layer in range(layers)
    )
