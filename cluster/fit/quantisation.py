"""How many bytes a weight takes: quantisation_config of a checkpoint, and vLLM's `quantization` and `dtype`
flags.

Source: vllm/model_executor/layers/quantization and the checkpoints' own formats (AutoGPTQ, AutoAWQ,
compressed-tensors, bitsandbytes, ModelOpt, OCP MX). Only the matrices of linear layers are quantised; what is
left out stays in `dtype`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import combinations
from typing import Any

from cluster.fit.fields import section, shown, text, texts, whole
from cluster.fit.reasons import FitError

DTYPE_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}
GPTQ = {"gptq", "auto_gptq", "gptq_marlin"}
AWQ = {"awq", "auto_awq", "awq_marlin"}
# One float32 scale for 64 weights.
FOUR_BITS = Fraction(4, 8) + Fraction(4, 64)
MXFP4 = {"mxfp4", "gpt_oss_mxfp4"}
_NAMES_OF_THE_SAME = (GPTQ, AWQ, MXFP4)


@dataclass(frozen=True)
class Quantisation:
    """A format of linear weights: bytes a parameter, scales and zero points included.

    group_size: input channels under one scale; block: (output, input) channels under one scale.
    left_out: names, parts of names or `re:` patterns of modules that stay unquantised.
    """

    method: str
    bytes_per_parameter: Fraction
    group_size: int | None = None
    block: tuple[int, int] | None = None
    left_out: tuple[str, ...] = ()
    experts_only: bool = False


@dataclass(frozen=True)
class Format:
    """Bytes of an unquantised parameter, and the quantisation of the others."""

    dtype_bytes: int
    quantisation: Quantisation | None = None

    def bytes_per_parameter(self, name: str, linear: bool) -> Fraction:
        """Bytes that one parameter of this tensor takes."""
        quantisation = self.quantisation
        if quantisation is None or not linear or is_left_out(name, quantisation):
            return Fraction(self.dtype_bytes)
        return quantisation.bytes_per_parameter


def read_formats(
    config: Mapping[str, Any], decoder: Mapping[str, Any], flag: str | None, dtype: str | None
) -> tuple[Format, Format]:
    """(as the checkpoint stores it, as vLLM loads it). Raises FitError."""
    stored_bytes = _stored_dtype(config, decoder)
    own = section(config, "quantization_config") or section(decoder, "quantization_config")
    own = own or section(config, "compression_config")
    stored = Format(stored_bytes, _of_checkpoint(own) if own else None)
    loaded_bytes = _loaded_dtype(stored_bytes, dtype)
    if stored.quantisation is None:
        return stored, Format(loaded_bytes, _online(flag) if flag else None)
    if flag and not _same(flag, stored.quantisation.method):
        raise FitError(
            f"quantization: the checkpoint is {stored.quantisation.method}, the flag says {flag!r}: "
            "vLLM refuses to load it; leave the flag out"
        )
    return stored, Format(loaded_bytes, stored.quantisation)


def kv_cache_is_fp8(config: Mapping[str, Any]) -> bool:
    """Does the checkpoint ask for an FP8 KV cache where `kv_cache_dtype` is auto?

    Source: vllm/utils/torch_utils.py get_kv_cache_quant_algo_string (ModelOpt alone).
    """
    quantisation = config.get("quantization_config")
    if not isinstance(quantisation, Mapping) or not str(quantisation.get("quant_method")).startswith(
        "modelopt"
    ):
        return False
    inner = quantisation.get("quantization")
    algorithm = (inner if isinstance(inner, Mapping) else quantisation).get("kv_cache_quant_algo")
    return isinstance(algorithm, str) and algorithm.lower() == "fp8"


@lru_cache(maxsize=65_536)
def is_left_out(name: str, quantisation: Quantisation) -> bool:
    """Is this module among those that the checkpoint keeps unquantised?

    A plain pattern is a name or some successive parts of one: `lm_head`, `model.layers.0.self_attn`, `gate`.
    """
    if quantisation.experts_only and not name.endswith(".experts"):
        return True
    plain, expressions = _patterns(quantisation.left_out)
    parts = name.split(".")
    pieces = combinations(range(len(parts) + 1), 2)
    return any(".".join(parts[start:end]) in plain for start, end in pieces) or any(
        expression.match(name) for expression in expressions
    )


@lru_cache(maxsize=64)
def _patterns(left_out: tuple[str, ...]) -> tuple[frozenset[str], tuple[re.Pattern[str], ...]]:
    plain = frozenset(pattern.strip(".") for pattern in left_out if "*" not in pattern)
    expressions = [re.compile(pattern[3:]) for pattern in left_out if pattern.startswith("re:")]
    stars = [pattern for pattern in left_out if "*" in pattern and not pattern.startswith("re:")]
    expressions += [re.compile(re.escape(star).replace(r"\*", ".*") + r"(\.|$)") for star in stars]
    return plain, tuple(expressions)


def _stored_dtype(config: Mapping[str, Any], decoder: Mapping[str, Any]) -> int:
    """vLLM asks the root config first, then the decoder's; without either it is float32."""
    for place in (config, decoder):
        for key in ("torch_dtype", "dtype"):
            if place.get(key) is not None:
                name = text(place, key).removeprefix("torch.")
                return _bytes_of_dtype(f"config.json: {key}", name)
    return DTYPE_BYTES["float32"]


def _loaded_dtype(stored: int, flag: str | None) -> int:
    if flag is None or flag == "auto":
        return min(stored, 2)  # vLLM's auto makes half precision of float32
    return _bytes_of_dtype("dtype", flag)


def _bytes_of_dtype(where: str, name: str) -> int:
    if name not in DTYPE_BYTES:
        raise FitError(f"{where}: expected one of {', '.join(DTYPE_BYTES)}, got {shown(name)}")
    return DTYPE_BYTES[name]


def _same(flag: str, method: str) -> bool:
    return flag == method or any(flag in names and method in names for names in _NAMES_OF_THE_SAME)


def _packed(method: str, own: Mapping[str, Any], left_out: tuple[str, ...]) -> Quantisation:
    if own.get("dynamic"):
        raise FitError(
            "config.json: quantization_config.dynamic: formats that differ by layer are not understood"
        )
    bits = whole(own, "bits", default=4, at_most=16)
    return _grouped(method, bits, _group_size(own, default=128), zero_points=True, left_out=left_out)


def _grouped(
    method: str, bits: int, group: int | None, zero_points: bool, left_out: tuple[str, ...]
) -> Quantisation:
    """Packed integers with one 16-bit scale, and mostly one packed zero point, a group."""
    per_group = Fraction(16 + (bits if zero_points else 0), 8)
    size = Fraction(bits, 8) + (per_group / group if group else 0)
    return Quantisation(method, size, group_size=group, left_out=left_out)


_ONLINE = {
    "fp8": Quantisation("fp8", Fraction(1)),
    "fp8_per_tensor": Quantisation("fp8", Fraction(1)),
    "fp8_per_channel": Quantisation("fp8", Fraction(1)),
    "fp8_per_block": Quantisation("fp8", 1 + Fraction(4, 128 * 128), block=(128, 128)),
    "mxfp8": Quantisation("mxfp8", 1 + Fraction(1, 32)),
    "int8_per_channel_weight_only": Quantisation("int8", Fraction(1)),
    "experts_int8": Quantisation("experts_int8", Fraction(1), experts_only=True),
    "bitsandbytes": Quantisation("bitsandbytes", FOUR_BITS),
}


def _online(flag: str) -> Quantisation:
    """What vLLM makes of unquantised weights while it loads them."""
    if flag not in _ONLINE:
        raise FitError(
            f"quantization: {flag!r} needs a checkpoint quantised so, and this config.json has no "
            f"quantization_config; on the fly there are {', '.join(_ONLINE)}"
        )
    return _ONLINE[flag]


def _of_checkpoint(own: Mapping[str, Any]) -> Quantisation:
    method = str(own.get("quant_method", "")).lower().replace("_tensors", "-tensors")
    left_out = _left_out(own)
    if method in GPTQ | AWQ:
        return _packed(method, own, left_out)
    if method in ("fp8", "fbgemm_fp8"):
        return _fp8(method, own, left_out)
    if method == "bitsandbytes":
        four = bool(own.get("load_in_4bit", own.get("_load_in_4bit", False)))
        return Quantisation(method, FOUR_BITS if four else Fraction(1), left_out=left_out)
    if method in MXFP4:
        return Quantisation(method, Fraction(4, 8) + Fraction(1, 32), left_out=left_out, experts_only=True)
    if method == "compressed-tensors":
        return _compressed_tensors(own, left_out)
    if method.startswith("modelopt") or own.get("quant_algo") or section(own, "quantization"):
        return _modelopt(own, left_out)
    raise FitError(
        "config.json: quantization_config.quant_method: "
        f"{shown(own.get('quant_method'))} is not understood here"
    )


def _left_out(own: Mapping[str, Any]) -> tuple[str, ...]:
    keys = ("modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules")
    inner = texts(section(own, "quantization") or {}, "exclude_modules")
    patterns = (*(name for key in keys for name in texts(own, key)), *inner)
    _check_patterns(patterns)
    return patterns


def _check_patterns(patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        try:
            re.compile(pattern[3:] if pattern.startswith("re:") else "")
        except (re.error, OverflowError, RecursionError) as error:
            raise FitError(
                f"config.json: quantization_config: {shown(pattern)} is no pattern: {error}"
            ) from None


def _group_size(own: Mapping[str, Any], default: int | None) -> int | None:
    """None for -1: one scale for all input channels."""
    value = own.get("group_size", own.get("q_group_size"))
    return None if value == -1 else whole({"group_size": value}, "group_size", default)


def _fp8(method: str, own: Mapping[str, Any], left_out: tuple[str, ...]) -> Quantisation:
    block = own.get("weight_block_size")
    if block is None:
        return Quantisation(method, Fraction(1), left_out=left_out)
    if not isinstance(block, list | tuple) or len(block) != 2:
        raise FitError(f"config.json: weight_block_size: expected two numbers, got {shown(block)}")
    rows, columns = (whole({"weight_block_size": side}, "weight_block_size") for side in block)
    scaled = 1 + Fraction(4, rows * columns)
    return Quantisation(method, scaled, block=(rows, columns), left_out=left_out)


def _compressed_tensors(own: Mapping[str, Any], left_out: tuple[str, ...]) -> Quantisation:
    groups = section(own, "config_groups") or {}
    found = {_compressed_group(group, left_out) for group in groups.values()}
    if len(found) != 1:
        raise FitError(
            "config.json: quantization_config.config_groups: "
            f"expected one format of weights, got {len(found)}"
        )
    return found.pop()


def _compressed_group(group: Any, left_out: tuple[str, ...]) -> Quantisation:
    weights = section(group, "weights") if isinstance(group, Mapping) else None
    if not weights:
        raise FitError(
            "config.json: quantization_config.config_groups: a group does not say how weights are stored"
        )
    bits = whole(weights, "num_bits", at_most=16)
    method = "compressed-tensors"
    if weights.get("strategy") == "block":
        return _fp8(method, {"weight_block_size": weights.get("block_structure")}, left_out)
    group_size = _group_size(weights, default=None) if weights.get("group_size") is not None else None
    if bits == 4 and weights.get("type") == "float":
        return Quantisation(
            method, Fraction(1, 2) + Fraction(1, group_size or 16), group_size, left_out=left_out
        )
    return _grouped(
        method, bits, group_size, zero_points=weights.get("symmetric") is False, left_out=left_out
    )


def _modelopt(own: Mapping[str, Any], left_out: tuple[str, ...]) -> Quantisation:
    algorithm = str((section(own, "quantization") or own).get("quant_algo")).upper()
    sizes = {"FP8": Fraction(1), "NVFP4": Fraction(4, 8) + Fraction(1, 16)}
    if algorithm not in sizes:
        raise FitError(f"config.json: quantization_config.quant_algo: {algorithm!r} is not understood here")
    method = "modelopt" if algorithm == "FP8" else "modelopt_fp4"
    return Quantisation(method, sizes[algorithm], 16 if algorithm == "NVFP4" else None, left_out=left_out)
