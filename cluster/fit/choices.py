"""All sensible ways to spread a model over nodes with equally many GPUs, the best first, each with its
reason.

The order follows vLLM's own advice (https://docs.vllm.ai/en/latest/serving/parallelism_scaling/): what fits
into one GPU is not split; else tensor parallelism inside a node and pipeline parallelism across nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from cluster.errors import count
from cluster.fit.predict import Model, Prediction, predict_split
from cluster.fit.settings import Settings
from cluster.fit.split import Split

Fabric = Literal["infiniband", "roce", "ethernet", "unknown"]
RDMA: tuple[Fabric, ...] = ("infiniband", "roce")


@dataclass(frozen=True)
class Hardware:
    """Nodes with equally many GPUs. `memory_bytes` of one GPU as CUDA reports it, None where that is not
    known.
    """

    nodes: int
    gpus_per_node: int
    memory_bytes: int | None
    gpu: str = ""
    fabric: Fabric = "unknown"

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True)
class Choice:
    """One split, what vLLM will make of it, and why it stands where it does."""

    split: Split
    prediction: Prediction
    why: str


def choices(model: Model, settings: Settings, hardware: Hardware) -> tuple[Choice, ...]:
    """Every split that uses all GPUs, the best first; those that do not fit last. Raises FitError."""
    found = [_choice(model, split, settings, hardware) for split in _splits(settings, hardware)]
    alone = predict_split(model, Split(1, 1), settings, hardware.memory_bytes, hardware.gpu)
    single = alone.fits is True and not alone.shortened
    return tuple(sorted(found, key=lambda choice: _rank(choice, hardware, single)))


def choose(model: Model, split: Split, settings: Settings, hardware: Hardware) -> Choice:
    """This split, whether it is among the sensible ones or not. Raises FitError."""
    return _choice(model, split, settings, hardware)


def _splits(settings: Settings, hardware: Hardware) -> Iterator[Split]:
    """A tensor parallel group lies inside a node or takes whole nodes."""
    for tensor in _divisors(hardware.gpus):
        if hardware.gpus_per_node % tensor and tensor % hardware.gpus_per_node:
            continue
        for pipeline in _divisors(hardware.gpus // tensor):
            data = hardware.gpus // (tensor * pipeline)
            yield Split(tensor, pipeline, data, settings.enable_expert_parallel)


def _divisors(number: int) -> Iterator[int]:
    return (divisor for divisor in range(1, number + 1) if number % divisor == 0)


def _choice(model: Model, split: Split, settings: Settings, hardware: Hardware) -> Choice:
    # A partition of layers suits one pipeline size alone.
    asked = settings.layers_per_stage
    suits = asked if asked and len(asked) == split.pipeline_parallel_size else None
    split = replace(split, layers_per_stage=suits)
    prediction = predict_split(model, split, settings, hardware.memory_bytes, hardware.gpu)
    reasons = [prediction.why] if prediction.why else []
    if prediction.fits is not False:
        reasons = [*_reasons(model, split, hardware), *reasons]
    return Choice(split, prediction, "; ".join(reasons))


def _reasons(model: Model, split: Split, hardware: Hardware) -> Iterator[str]:
    tensor, pipeline, data = (
        split.tensor_parallel_size,
        split.pipeline_parallel_size,
        split.data_parallel_size,
    )
    if tensor > hardware.gpus_per_node:
        yield f"every layer's all-reduce crosses {_cable(hardware)}"
        if hardware.fabric in RDMA:
            yield "worth a try where latency counts more than throughput"
    elif tensor > 1:
        yield "tensor parallel inside a node"
    if pipeline > 1:
        across = tensor * pipeline > hardware.gpus_per_node
        yield f"{pipeline} pipeline stages " + ("across nodes" if across else "inside a node")
    if data > 1:
        shared = ", experts spread over all of them" if model.shape.experts else ""
        yield f"{data} replicas of {count(split.world_size, 'GPU')}, each with this cache{shared}"
    if data > 1 and model.shape.experts and split.expert_ranks > hardware.gpus_per_node:
        yield f"experts' traffic crosses {_cable(hardware)}"
    heads = model.shape.num_key_value_heads
    if model.shape.latent and tensor > 1:
        yield "MLA's cache is whole on every GPU of a tensor parallel group"
    elif tensor > heads:
        yield f"{count(heads, 'KV head')} replicated: a tensor parallel size above {heads} saves no cache"


def _cable(hardware: Hardware) -> str:
    if hardware.fabric in RDMA:
        return {"infiniband": "InfiniBand", "roce": "RoCE"}[hardware.fabric]
    if hardware.fabric == "ethernet":
        return "Ethernet, which is too slow for it"
    return "the network (say --fabric infiniband or roce where it is that)"


def _rank(choice: Choice, hardware: Hardware, single: bool) -> tuple[float, ...]:
    """Smaller is better."""
    split, prediction = choice.split, choice.prediction
    tensor, data = split.tensor_parallel_size, split.data_parallel_size
    impossible = prediction.weight_bytes_per_rank is None
    across = tensor > hardware.gpus_per_node
    return (
        {True: 0, None: 1, False: 2}[prediction.fits] + impossible,
        prediction.shortened,
        split.world_size if single else (data > 1),
        across and hardware.fabric not in RDMA,
        # As much tensor parallelism as a node carries; over a fast fabric, across nodes comes next.
        tensor != hardware.gpus_per_node,
        -tensor,
    )
