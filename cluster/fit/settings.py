"""What of vLLM's flags and environment changes the memory."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cluster.fit.fields import shown
from cluster.fit.reasons import FitError
from cluster.inventory.vllm_flags import flag

Device = Literal["cuda", "cpu"]

# vllm/config/cache.py CacheConfig.gpu_memory_utilization; 0.90 up to vLLM 0.22.
DEFAULT_UTILISATION = 0.92
_SHORT = {"q": "quantization", "dp": "data-parallel-size", "ep": "enable-expert-parallel"}
_DECIMAL = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Settings:
    """The flags that matter here, None where vLLM decides. max_model_len -1: as long as fits.

    beside: what the figures leave out, for a person.
    """

    device: Device = "cuda"
    max_model_len: int | None = None
    gpu_memory_utilization: float = DEFAULT_UTILISATION
    kv_cache_memory_bytes: int | None = None
    kv_cache_dtype: str = "auto"
    block_size: int | None = None
    num_gpu_blocks_override: int | None = None
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    quantization: str | None = None
    dtype: str | None = None
    enable_expert_parallel: bool = False
    data_parallel_size: int = 1
    cpu_offload_bytes: int = 0
    layers_per_stage: tuple[int, ...] | None = None
    hf_overrides: Mapping[str, Any] | None = None
    allow_long_max_model_len: bool = False
    disable_hybrid_kv_cache_manager: bool = False
    beside: tuple[str, ...] = ()


def read_settings(serve_args: Mapping[str, Any], env: Mapping[str, str], device: Device) -> Settings:
    """The settings of `serve.args` and of the environment. Raises FitError for a value that vLLM would
    refuse.
    """
    args = {_SHORT.get(flag(str(key)), flag(str(key))): value for key, value in serve_args.items()}
    if _integer(args, "decode-context-parallel-size", 1) != 1:
        raise FitError("serve.args.decode_context_parallel_size: a divided KV cache is not understood here")
    return Settings(
        device=device,
        max_model_len=_length(args),
        gpu_memory_utilization=_share(args),
        kv_cache_memory_bytes=_cache_bytes(args, env, device),
        kv_cache_dtype=_text(args, "kv-cache-dtype") or "auto",
        block_size=_integer(args, "block-size"),
        num_gpu_blocks_override=_integer(args, "num-gpu-blocks-override"),
        max_num_batched_tokens=_integer(args, "max-num-batched-tokens"),
        max_num_seqs=_integer(args, "max-num-seqs"),
        quantization=_text(args, "quantization"),
        dtype=_text(args, "dtype"),
        enable_expert_parallel=args.get("enable-expert-parallel") is True,
        data_parallel_size=_integer(args, "data-parallel-size", 1) or 1,
        cpu_offload_bytes=int(_number(args, "cpu-offload-gb", 0.0, most=10**6) * 2**30),
        layers_per_stage=_partition(env),
        hf_overrides=_overrides(args),
        # vllm/envs.py; vLLM only warns then.
        allow_long_max_model_len=env.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "").strip().lower()
        in ("1", "true"),
        disable_hybrid_kv_cache_manager=args.get("disable-hybrid-kv-cache-manager") is True,
        beside=tuple(_beside(args)),
    )


def human_readable_int(text: str) -> int | None:
    """256M is 256 · 2^20 and 256m is 256 · 10^6, as in vllm/utils/argparse_utils.py; None for what it
    refuses.
    """
    number = re.fullmatch(r"\s*(\d{1,18})(\.\d{1,9})?([kKmMgGtT]?)\s*", text)
    if number is None or (number[2] and number[3] not in _DECIMAL):
        return None
    if number[3] in _DECIMAL:
        return int(float(number[1] + (number[2] or "")) * _DECIMAL[number[3]])
    return int(number[1]) * _BINARY.get(number[3], 1)


def _integer(args: Mapping[str, Any], name: str, default: int | None = None) -> int | None:
    value = args.get(name)
    if value is None:
        return default
    number = human_readable_int(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 10**18:
        raise FitError(
            f"serve.args.{_key(name)}: expected a whole number such as 8192 or 8k, got {shown(value)}"
        )
    return number


def _length(args: Mapping[str, Any]) -> int | None:
    if str(args.get("max-model-len")).strip().lower() in ("-1", "auto"):
        return -1
    return _integer(args, "max-model-len")


def _cache_bytes(args: Mapping[str, Any], env: Mapping[str, str], device: Device) -> int | None:
    """On the CPU, VLLM_CPU_KVCACHE_SPACE (whole GiB) wins over the flag (vllm/platforms/cpu.py)."""
    space = env.get("VLLM_CPU_KVCACHE_SPACE", "")
    if device == "cuda" or space == "":
        return _integer(args, "kv-cache-memory-bytes")
    if not re.fullmatch(r"\s*\d{1,6}\s*", space):
        raise FitError(f"VLLM_CPU_KVCACHE_SPACE: expected a whole number of GiB, got {shown(space)}")
    return int(space) * 2**30


def _share(args: Mapping[str, Any]) -> float:
    share = _number(args, "gpu-memory-utilization", DEFAULT_UTILISATION, most=1)
    if share == 0:
        raise FitError("serve.args.gpu_memory_utilization: expected a number above 0, up to 1, got 0")
    return share


def _number(args: Mapping[str, Any], name: str, default: float, most: float) -> float:
    value = args.get(name)
    try:
        number = default if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if isinstance(value, bool) or not 0 <= number <= most:
        raise FitError(f"serve.args.{_key(name)}: expected a number from 0 to {most:,}, got {shown(value)}")
    return number


def _overrides(args: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A mapping, or JSON of one, as on vLLM's command line."""
    value = args.get("hf-overrides")
    try:
        content = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        content = value
    if content is not None and not isinstance(content, Mapping):
        raise FitError(f"serve.args.hf_overrides: expected a mapping, got {shown(value)}")
    return content


def _text(args: Mapping[str, Any], name: str) -> str | None:
    value = args.get(name)
    if value is not None and not isinstance(value, str):
        raise FitError(f"serve.args.{_key(name)}: expected text, got {shown(value)}")
    return value


def _partition(env: Mapping[str, str]) -> tuple[int, ...] | None:
    text = env.get("VLLM_PP_LAYER_PARTITION")
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,6}(,\d{1,6}){0,999}", text):
        raise FitError(f"VLLM_PP_LAYER_PARTITION: expected numbers such as 31,30, got {shown(text)}")
    return tuple(int(part) for part in text.split(","))


def _beside(args: Mapping[str, Any]) -> list[str]:
    notes = {
        "speculative-config": "the draft model of speculative_config",
        "enable-lora": "LoRA adapters",
        "enable-eplb": "redundant experts",
        "kv-cache-dtype-skip-layers": "kv_cache_dtype_skip_layers",
    }
    return [note for name, note in notes.items() if args.get(name) not in (None, False)]


def _key(name: str) -> str:
    return name.replace("-", "_")
