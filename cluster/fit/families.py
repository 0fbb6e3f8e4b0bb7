"""What a model type's config.json does not say, because its code does.

Source: the configuration classes of transformers 5 (defaults, ties, biases) and vllm/model_executor/models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Family:
    """`pattern` n: every n-th layer attends fully, the others within sliding_window; 0: all alike.

    `windowed`: sliding_window, where the config has one, holds for every layer (vllm's cache_config).
    `defaults`: keys that published configs of this type leave out.
    """

    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: Literal["none", "head", "width"] = "none"
    norms_per_layer: int = 2
    tied: bool = False
    latent: bool = False
    experts: Literal["none", "all", "some"] = "none"
    windowed: bool = False
    pattern: int = 0
    defaults: Mapping[str, Any] = field(default_factory=dict)


_QWEN2 = Family(qkv_bias=True)
_QWEN3 = Family(qk_norm="head")
_QWEN3_MOE = Family(qk_norm="head", experts="some")
_DEEPSEEK = Family(latent=True, experts="some")

FAMILIES: Mapping[str, Family] = {
    "llama": Family(),
    "mistral": Family(windowed=True),
    "mixtral": Family(windowed=True, experts="all"),
    "granite": Family(),
    "phi3": Family(windowed=True),
    "smollm3": Family(tied=True),
    "olmo2": Family(qk_norm="width"),
    "qwen2": _QWEN2,
    "qwen2_vl": _QWEN2,
    "qwen2_vl_text": _QWEN2,
    "qwen2_5_vl": _QWEN2,
    "qwen2_5_vl_text": _QWEN2,
    "qwen2_moe": Family(qkv_bias=True, experts="some"),
    "qwen3": _QWEN3,
    "qwen3_vl_text": _QWEN3,
    "qwen3_moe": _QWEN3_MOE,
    "qwen3_vl_moe_text": _QWEN3_MOE,
    "gemma": Family(tied=True),
    "gemma2": Family(tied=True, norms_per_layer=4, pattern=2),
    "gemma3_text": Family(
        tied=True,
        qk_norm="head",
        norms_per_layer=4,
        pattern=6,
        defaults={
            "vocab_size": 262_208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "max_position_embeddings": 131_072,
        },
    ),
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "kimi_k2": _DEEPSEEK,
    "glm4_moe": Family(experts="some"),
    "gpt_oss": Family(qkv_bias=True, output_bias=True, experts="all", pattern=2),
}
