"""A choice as JSON for programs, and as a row for people."""

from __future__ import annotations

from typing import Any

from cluster.fit.choices import Choice
from cluster.fit.predict import GIB, Model

COLUMNS = (
    "",
    "TP",
    "PP",
    "DP",
    "fits",
    "weights/GPU",
    "KV cache/GPU",
    "KV tokens",
    "requests",
    "max context",
)


def model_json(model: Model) -> dict[str, Any]:
    """Bytes and counts of the whole model."""
    return {
        "model_type": model.shape.model_type,
        "parameters": model.parameters,
        "weight_bytes": model.weight_bytes,
        "kv_bytes_per_token": model.kv_bytes_per_token,
        "max_position_embeddings": model.shape.max_position,
    }


def choice_json(choice: Choice) -> dict[str, Any]:
    """Sizes in bytes and tokens; what is not known, or does not exist, is null."""
    prediction, split = choice.prediction, choice.split
    return {
        "tensor_parallel_size": split.tensor_parallel_size,
        "pipeline_parallel_size": split.pipeline_parallel_size,
        "data_parallel_size": split.data_parallel_size,
        "fits": prediction.fits,
        "weight_bytes_per_rank": prediction.weight_bytes_per_rank,
        "activation_bytes_per_rank": prediction.activation_bytes,
        "non_torch_bytes_per_rank": prediction.non_torch_bytes,
        "kv_bytes_per_token_per_rank": prediction.kv_bytes_per_token_per_rank,
        "kv_cache_bytes_per_rank": prediction.kv_cache_bytes,
        "kv_tokens": prediction.kv_tokens,
        "max_concurrency": prediction.max_concurrency,
        "max_model_len": prediction.max_model_len,
        "max_context": prediction.max_context,
        "why": choice.why,
    }


def summary(model: Model) -> str:
    """`llama: 8,030,261,248 parameters, 14.96 GiB, 128.0 KiB of KV cache a token`."""
    return (
        f"{model.shape.model_type}: {model.parameters:,} parameters, {_gib(model.weight_bytes)}, "
        f"{model.kv_bytes_per_token / 1024:,.1f} KiB of KV cache a token, "
        f"{model.shape.max_position:,} positions"
    )


def row(choice: Choice, marked: bool) -> tuple[str, ...]:
    """The columns of `COLUMNS`."""
    prediction, split = choice.prediction, choice.split
    return (
        "*" if marked else "",
        str(split.tensor_parallel_size),
        str(split.pipeline_parallel_size),
        str(split.data_parallel_size),
        {True: "yes", False: "no", None: "?"}[prediction.fits],
        _gib(prediction.weight_bytes_per_rank),
        _gib(prediction.kv_cache_bytes),
        _number(prediction.kv_tokens),
        _concurrency(prediction.max_concurrency, prediction.max_model_len),
        _number(prediction.max_context),
    )


def reason(choice: Choice) -> str:
    """`TP 8 PP 2 DP 1: tensor parallel inside a node; 2 pipeline stages across nodes`."""
    split = choice.split
    sizes = f"TP {split.tensor_parallel_size} PP {split.pipeline_parallel_size} DP {split.data_parallel_size}"
    return f"{sizes}: {choice.why}"


def _gib(size: int | None) -> str:
    return "-" if size is None else f"{size / GIB:,.2f} GiB"


def _number(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _concurrency(concurrency: float | None, length: int) -> str:
    return "-" if concurrency is None else f"{concurrency:,.2f} × {length:,}"
