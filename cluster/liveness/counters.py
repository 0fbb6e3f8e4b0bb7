"""What vLLM counts, read from its /metrics. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

# Set by the engine's messages alone (vllm/v1/metrics/loggers.py, PrometheusStatLogger.record). Older versions
# name the gauge of the KV cache gpu_cache_usage_perc.
MARKS = (
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:iteration_tokens_total_count",
    "vllm:num_preemptions_total",
    "vllm:prefix_cache_queries_total",
    "vllm:kv_cache_usage_perc",
    "vllm:gpu_cache_usage_perc",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
)
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
SLEEP, AWAKE = "vllm:engine_sleep_state", "awake"


@dataclass(frozen=True)
class Counters:
    """Requests that run and that wait, over all engines; `marks` differ as soon as an engine did anything.

    `asleep`: put to sleep through vLLM's API, and not meant to answer.
    """

    running: int = 0
    waiting: int = 0
    asleep: bool = False
    marks: Mapping[str, float] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """All that somebody waits for."""
        return self.running + self.waiting


def counters(metrics: str) -> Counters | None:
    """The counters in Prometheus' text format; None where vLLM counts nothing, or it is no such text.

    A server that was started with disable_log_stats has no series of its own.
    """
    try:
        samples = list(_samples(metrics))
    except ValueError:
        return None
    marks: dict[str, float] = {}
    for name, labels, value in samples:
        if name in MARKS:
            key = f"{name} {labels.get('engine', '')}"
            marks[key] = marks.get(key, 0.0) + value
    if not marks:
        return None
    awake = [value for name, labels, value in samples if name == SLEEP and labels.get("sleep_state") == AWAKE]
    return Counters(_sum(samples, RUNNING), _sum(samples, WAITING), bool(awake) and not any(awake), marks)


def _samples(metrics: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    from prometheus_client.parser import text_string_to_metric_families

    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def _sum(samples: list[tuple[str, Mapping[str, str], float]], wanted: str) -> int:
    return int(sum(value for name, _, value in samples if name == wanted and value == value))
