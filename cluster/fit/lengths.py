"""How long a model's context can be, as vLLM derives it from config.json.

Source: vllm/config/model.py `_get_and_verify_max_len`, transformers_utils/model_arch_config_convertor.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.fit.fields import section, shown, whole, whole_or_none
from cluster.fit.reasons import FitError

# What vLLM assumes where a config gives no length.
UNSTATED = 2_048
# The position count of these is already the scaled one.
_ALREADY_SCALED = {"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "default"}


@dataclass(frozen=True)
class Lengths:
    """In tokens. `rotary_share`: the part of a head that is rotated, 0 to 1."""

    most: int
    default: int
    rotary_share: float


def read_lengths(decoder: Mapping[str, Any]) -> Lengths:
    """The longest context, and the one that vLLM takes by itself. Raises FitError."""
    positions = whole(decoder, "max_position_embeddings", default=UNSTATED)
    rope = section(decoder, "rope_parameters") or section(decoder, "rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    scaled = (
        not isinstance(kind, str) or kind in _ALREADY_SCALED or "gemma3" in str(decoder.get("model_type"))
    )
    most = positions if scaled else int(positions * _factor(rope))
    original = whole_or_none(decoder, "original_max_position_embeddings")
    return Lengths(
        most=most,
        default=min(most, original) if kind == "longrope" and original else most,
        rotary_share=_share(decoder, rope),
    )


def _factor(rope: Mapping[str, Any]) -> float:
    factor = rope.get("factor")
    if factor is None:
        return 1.0
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 <= factor <= 1_000:
        raise FitError(
            f"config.json: rope_scaling.factor: expected a number from 1 to 1,000, got {shown(factor)}"
        )
    return float(factor)


def _share(decoder: Mapping[str, Any], rope: Mapping[str, Any]) -> float:
    share = decoder.get("partial_rotary_factor", rope.get("partial_rotary_factor"))
    if share is None:
        return 1.0
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise FitError(
            f"config.json: partial_rotary_factor: expected a number from 0 to 1, got {shown(share)}"
        )
    return float(share)
