"""Mixtures of experts in a config.json: how many, how large, in which layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cluster.fit.fields import shown, whole, whole_or_none
from cluster.fit.reasons import FitError

_NUMBERS = ("n_routed_experts", "num_experts", "num_local_experts")


@dataclass(frozen=True)
class Experts:
    """The experts of one sparse layer; shared_intermediate_size 0: none that every token passes.

    router_bias: one value per expert beside the router's weight (a score correction or a plain bias).
    shared_gate: the shared expert's own gate, hidden_size values. biases: experts' matrices have biases.
    """

    number: int
    per_token: int
    intermediate_size: int
    shared_intermediate_size: int
    router_bias: bool
    shared_gate: bool
    biases: bool


def read_experts(decoder: Mapping[str, Any], model_type: str) -> Experts:
    """The experts of a sparse layer. Raises FitError."""
    size = whole(decoder, "moe_intermediate_size", whole(decoder, "intermediate_size"))
    shared = whole_or_none(decoder, "n_shared_experts")
    shared_size = whole_or_none(decoder, "shared_expert_intermediate_size")
    return Experts(
        number=_number(decoder),
        per_token=whole(decoder, "num_experts_per_tok"),
        intermediate_size=size,
        shared_intermediate_size=size * shared if shared else shared_size or 0,
        router_bias=decoder.get("topk_method") == "noaux_tc" or model_type in ("glm4_moe", "gpt_oss"),
        shared_gate=shared_size is not None,
        biases=model_type == "gpt_oss",
    )


def sparse_layers(
    decoder: Mapping[str, Any], layers: int, which: Literal["none", "all", "some"]
) -> tuple[bool, ...]:
    """Which layers have experts: DeepSeek's and Qwen's keys leave some of them dense. Raises FitError."""
    if which == "none" or (which == "some" and not any(decoder.get(key) for key in _NUMBERS)):
        return (False,) * layers
    first = whole_or_none(decoder, "first_k_dense_replace") or 0
    every = whole(decoder, "moe_layer_freq", 1)
    step = whole(decoder, "decoder_sparse_step", 1)
    dense = decoder.get("mlp_only_layers") or ()
    if not isinstance(dense, list | tuple) or not all(isinstance(layer, int) for layer in dense):
        raise FitError(f"config.json: mlp_only_layers: expected a list of numbers, got {shown(dense)}")
    return tuple(
        layer >= first and layer % every == 0 and (layer + 1) % step == 0 and layer not in dense
        for layer in range(layers)
    )


def _number(decoder: Mapping[str, Any]) -> int:
    key = next((key for key in _NUMBERS if decoder.get(key) is not None), _NUMBERS[0])
    return whole(decoder, key, at_most=100_000)
