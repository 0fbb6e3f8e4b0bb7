"""How a model is spread over GPUs, and why it cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from cluster.fit.quantisation import Format
from cluster.fit.reasons import FitError
from cluster.fit.shape import Shape

# vLLM pads the vocabulary to a multiple of it (layers/vocab_parallel_embedding.py).
VOCABULARY_PADDING = 64


@dataclass(frozen=True)
class Split:
    """Sizes of the parallel groups. With expert parallelism, experts spread over tensor × data parallel
    ranks.

    layers_per_stage: VLLM_PP_LAYER_PARTITION, where it is set.
    """

    tensor_parallel_size: int
    pipeline_parallel_size: int
    data_parallel_size: int = 1
    expert_parallel: bool = False
    layers_per_stage: tuple[int, ...] | None = None

    @property
    def world_size(self) -> int:
        """GPUs of one replica."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def expert_ranks(self) -> int:
        """Over how many GPUs the experts of one layer are spread, whole or in parts."""
        return self.tensor_parallel_size * self.data_parallel_size


def padded_vocabulary(shape: Shape) -> int:
    """Rows of the embedding as vLLM makes it."""
    return -(-shape.vocab_size // VOCABULARY_PADDING) * VOCABULARY_PADDING


def stages(shape: Shape, split: Split) -> tuple[range, ...]:
    """The layers of every pipeline stage, as vLLM cuts them (distributed/utils.py get_pp_indices).

    What does not divide goes to the stages before the last, the last but one first. Raises FitError for a
    partition that does not suit the model.
    """
    size, layers = split.pipeline_parallel_size, shape.num_hidden_layers
    counts = list(split.layers_per_stage or [layers // size] * size)
    if split.layers_per_stage is None:
        for behind in range(2, layers % size + 2):
            counts[-behind] += 1
    if len(counts) != size or sum(counts) != layers:
        raise FitError(
            f"VLLM_PP_LAYER_PARTITION: {len(counts)} stages with {sum(counts)} layers in all do not make "
            f"pipeline_parallel_size {size} of {layers} layers"
        )
    return tuple(range(end - count, end) for count, end in zip(counts, accumulate(counts), strict=True))


def why_impossible(shape: Shape, loaded: Format, split: Split) -> str | None:
    """Why vLLM would refuse this split, all reasons in a line, or None."""
    return "; ".join(_reasons(shape, loaded, split)) or None


def _reasons(shape: Shape, loaded: Format, split: Split) -> Iterator[str]:
    tensor, heads, kv_heads = split.tensor_parallel_size, shape.num_attention_heads, shape.num_key_value_heads
    if split.pipeline_parallel_size > shape.num_hidden_layers:
        yield f"{shape.num_hidden_layers} layers cannot be {split.pipeline_parallel_size} stages"
    if heads % tensor:
        yield f"{heads} attention heads do not divide by {tensor}"
    # QKVParallelLinear (layers/linear.py): heads are divided, or each is replicated equally often.
    if shape.latent is None and kv_heads % tensor and tensor % kv_heads:
        yield f"{kv_heads} KV heads neither divide by {tensor} nor into it"
    if padded_vocabulary(shape) % tensor:
        padded = padded_vocabulary(shape)
        yield f"the vocabulary of {shape.vocab_size:,}, padded to {padded:,}, does not divide by {tensor}"
    yield from _feed_forward(shape, loaded, split)


def _feed_forward(shape: Shape, loaded: Format, split: Split) -> Iterator[str]:
    tensor, experts = split.tensor_parallel_size, shape.experts
    if not all(shape.sparse):
        yield from _divided("the intermediate size", shape.intermediate_size, tensor, loaded)
    if experts is None:
        return
    if experts.shared_intermediate_size:
        name = "the shared experts' intermediate size"
        yield from _divided(name, experts.shared_intermediate_size, tensor, loaded)
    if split.expert_parallel:
        if experts.number < split.expert_ranks:
            yield f"{experts.number} experts cannot be spread over {split.expert_ranks} GPUs"
        return
    for reason in _divided(
        "the experts' intermediate size", experts.intermediate_size, split.expert_ranks, loaded
    ):
        yield f"{reason}; whole experts do: enable_expert_parallel"


def _divided(name: str, size: int, ranks: int, loaded: Format) -> Iterator[str]:
    """Gate and up are cut along their output, down along its input, and scales with them."""
    if size % ranks:
        yield f"{name} of {size:,} does not divide by {ranks}"
        return
    quantisation, part = loaded.quantisation, size // ranks
    if quantisation and ranks > 1:
        for unit in {*(quantisation.block or ()), quantisation.group_size or 1}:
            if part % unit:
                yield (
                    f"{name} of {size:,} over {ranks} is {part:,}, "
                    f"which {quantisation.method}'s blocks of {unit} do not divide"
                )
                return
