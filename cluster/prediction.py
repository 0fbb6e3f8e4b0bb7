"""What vLLM should make of the model on these very nodes: the fit of an inventory, with facts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.facts import Facts
from cluster.facts.hardware import Gpu
from cluster.facts.model_files import ModelFiles
from cluster.facts.types import KvCache
from cluster.fit import FitError
from cluster.fit.gpus import find_gpu
from cluster.fit.predict import Prediction, predict
from cluster.plan import Plan


def predicted(plan: Plan, facts: Mapping[str, Facts]) -> Prediction | None:
    """The prediction for a plan; None where no node has the model's config.json, or it is not understood."""
    model = _model(plan, facts)
    if model is None or model.config is None:
        return None
    memory, gpu = smallest_gpu(facts)
    try:
        return predict(
            model.config,
            model.index_bytes,
            tensor_parallel_size=plan.tensor_parallel_size,
            pipeline_parallel_size=plan.pipeline_parallel_size,
            memory_bytes_per_gpu=memory,
            serve_args=plan.serve.args,
            env=dict(plan.head.env),
            device=plan.runtime.device,
            gpu=gpu,
        )
    except FitError:
        return None


def smallest_gpu(facts: Mapping[str, Facts]) -> tuple[int | None, str]:
    """(bytes as CUDA gives them to a program, the GPU's name): the smallest decides for all ranks."""
    sizes = [(_cuda_bytes(gpu), gpu.name) for fact in facts.values() for gpu in fact.gpus if gpu.memory_total]
    return min(sizes, default=(None, ""))


def _cuda_bytes(gpu: Gpu) -> int:
    """Less than nvidia-smi shows; where it is not known how much less, what it shows."""
    try:
        return min(find_gpu(gpu.name).memory_bytes, gpu.memory_total)
    except FitError:
        return gpu.memory_total


def _model(plan: Plan, facts: Mapping[str, Facts]) -> ModelFiles | None:
    """The head's; another node's where the head has none."""
    models = (facts[member.name].model for member in plan.members if member.name in facts)
    return next((model for model in models if model is not None and model.config is not None), None)


def in_words(found: Prediction) -> str:
    """`8.03 B parameters, 7.5 GiB of weights on the fullest rank, a KV cache of 23,296 tokens, ...`."""
    billions = found.parameters / 1e9
    size = f"{billions:,.2f} B" if billions >= 1 else f"{found.parameters / 1e6:,.0f} M"
    weights = found.weight_bytes_per_rank
    return ", ".join(
        (
            f"{size} parameters",
            *((f"{weights / 2**30:,.2f} GiB of weights on the fullest rank",) if weights else ()),
            *((cache_in_words(found),) if found.kv_tokens is not None else ()),
        )
    )


def cache_in_words(found: Prediction) -> str:
    """`a KV cache of 23,296 tokens, 22.8 requests of 1,024 tokens at once`."""
    most = f", {found.max_concurrency:.2f} requests of {found.max_model_len:,} tokens at once"
    return f"a KV cache of {found.kv_tokens or 0:,} tokens{most if found.max_concurrency is not None else ''}"


def prediction_json(found: Prediction) -> dict[str, object]:
    """A prediction for programs."""
    keys = ("parameters", "weight_bytes_per_rank", "kv_bytes_per_token", "kv_tokens", "max_concurrency")
    return {key: getattr(found, key) for key in (*keys, "max_model_len", "fits", "why")}


@dataclass(frozen=True)
class Figures:
    """Of a KV cache: tokens of the whole model, and requests of the longest length at once."""

    kv_tokens: int | None = None
    max_concurrency: float | None = None


@dataclass(frozen=True)
class KvFigures:
    """What was to be expected, beside what vLLM reports."""

    predicted: Figures
    reported: Figures
    max_model_len: int | None

    @classmethod
    def of(cls, expected: Prediction | None, reported: KvCache | None) -> KvFigures:
        """Either may be unknown."""
        length = reported.max_model_len if reported else expected.max_model_len if expected else None
        return cls(
            Figures(expected.kv_tokens, expected.max_concurrency) if expected else Figures(),
            Figures(reported.tokens, reported.max_concurrency) if reported else Figures(),
            length,
        )

    @property
    def rows(self) -> tuple[tuple[str, str, str], ...]:
        """(what, predicted, reported) for a table; none where nothing is known."""
        if self.predicted.kv_tokens is None and self.reported.kv_tokens is None:
            return ()
        pairs = (
            ("KV cache, tokens", self.predicted.kv_tokens, self.reported.kv_tokens),
            (
                f"requests of {self.max_model_len or 0:,} tokens at once",
                self.predicted.max_concurrency,
                self.reported.max_concurrency,
            ),
        )
        return tuple((what, _shown(expected), _shown(reported)) for what, expected, reported in pairs)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,}"
