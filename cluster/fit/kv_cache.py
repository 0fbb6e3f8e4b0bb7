"""The KV cache: bytes a token, blocks, tokens, and how long a request fits.

Source: vllm/v1/core/kv_cache_utils.py (get_kv_cache_groups, get_kv_cache_configs,
get_max_concurrency_for_kv_cache_config), vllm/v1/kv_cache_interface.py (FullAttentionSpec, SlidingWindowSpec,
MLAAttentionSpec).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from cluster.fit.reasons import FitError
from cluster.fit.shape import Shape, Window
from cluster.fit.split import Split, stages

_BYTES = {"float16": 2, "bfloat16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "fp8_inc": 1}
# FlashMLA's own layout: 512 bytes of FP8, 16 of scales, 128 of unquantised rotary part.
FP8_DS_MLA_BYTES = 656


@dataclass(frozen=True)
class Group:
    """Layers that share one block table; window None: they keep every token."""

    layers: tuple[int, ...]
    window: Window


@dataclass(frozen=True)
class KvCache:
    """The cache of one replica. layer_bytes: of one token in one layer on one GPU.

    in_flight_tokens: scheduled but not settled, which a sliding window holds besides its own.
    """

    groups: tuple[Group, ...]
    stages: tuple[range, ...]
    layer_bytes: int
    block_size: int
    in_flight_tokens: int

    @property
    def block_bytes(self) -> tuple[int, ...]:
        """Bytes of one block on a GPU of every stage: as many layers as the fullest group has there."""
        most = (
            max(sum(layer in part for layer in group.layers) for group in self.groups) for part in self.stages
        )
        return tuple(layers * self.layer_bytes * self.block_size for layers in most)

    def blocks(self, available: Sequence[int]) -> int:
        """Blocks that every stage has room for; `available` is in bytes, one figure a stage."""
        sizes = zip(available, self.block_bytes, strict=True)
        return max(0, min(room // size for room, size in sizes if size))

    def blocks_of_a_request(self, tokens: int) -> int:
        """Blocks that a request of this length takes."""
        return sum(self._blocks_in(group, tokens) for group in self.groups)

    def _blocks_in(self, group: Group, tokens: int) -> int:
        if group.window is None:
            return -(-tokens // self.block_size)
        held = min(group.window - 1 + self.in_flight_tokens, tokens)
        return -(-held // self.block_size) + 1

    def longest(self, blocks: int, at_most: int) -> int:
        """The longest request that fits, in tokens; vLLM keeps one block back (the null block)."""
        low, high = 0, at_most
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.blocks_of_a_request(middle) <= blocks - 1
            low, high = (middle, high) if fits else (low, middle - 1)
        return low


def layer_bytes(shape: Shape, kv_cache_dtype: str, dtype_bytes: int, tensor_parallel_size: int) -> int:
    """Bytes that a token takes in one layer on one GPU; MLA's latent is whole on each. Raises FitError."""
    if shape.latent:
        if kv_cache_dtype == "fp8_ds_mla":
            return FP8_DS_MLA_BYTES
        width = shape.latent.kv_lora_rank + shape.latent.qk_rope_head_dim
        return width * _element_bytes(kv_cache_dtype, dtype_bytes)
    heads = max(1, shape.num_key_value_heads // tensor_parallel_size)
    return 2 * heads * shape.head_dim * _element_bytes(kv_cache_dtype, dtype_bytes)


def bytes_per_token(shape: Shape, kv_cache_dtype: str, dtype_bytes: int) -> int:
    """Bytes that a token takes in the whole model, every layer and head once."""
    return shape.num_hidden_layers * layer_bytes(shape, kv_cache_dtype, dtype_bytes, tensor_parallel_size=1)


def make_cache(
    shape: Shape, split: Split, layer_size: int, block_size: int, in_flight_tokens: int
) -> KvCache:
    """The cache of a model that is split so; `layer_size` as `layer_bytes` gives it."""
    return KvCache(_groups(shape), stages(shape, split), layer_size, block_size, in_flight_tokens)


def _element_bytes(kv_cache_dtype: str, dtype_bytes: int) -> int:
    if kv_cache_dtype == "auto":
        return dtype_bytes
    if kv_cache_dtype not in _BYTES:
        known = ", ".join(["auto", *_BYTES])
        raise FitError(
            f"kv_cache_dtype: {kv_cache_dtype!r} is not understood here for this model; known are {known}"
        )
    return _BYTES[kv_cache_dtype]


def _groups(shape: Shape) -> tuple[Group, ...]:
    """Layers with one kind of attention in groups of one size, as vLLM forms them for hybrid models."""
    windows = sorted(enumerate(shape.windows), key=lambda item: (item[1] is not None, item[1] or 0, item[0]))
    kinds = [(window, [i for i, _ in items]) for window, items in groupby(windows, key=lambda item: item[1])]
    fewest, most = min(len(layers) for _, layers in kinds), max(len(layers) for _, layers in kinds)
    size = most if most < fewest * 1.5 else fewest
    return tuple(
        Group(tuple(layers[start :: -(-len(layers) // size)]), window)
        for window, layers in kinds
        for start in range(-(-len(layers) // size))
    )
