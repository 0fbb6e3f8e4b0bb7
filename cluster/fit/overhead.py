"""What a GPU holds besides weights and KV cache. vLLM measures it while it starts; this is an estimate.

Measured with torch 2.11 and NCCL 2.28.9 on two H200 (NVLink): drawing samples takes 14.07 bytes per sequence
and entry of the vocabulary (logits in 16 bits, in float32, probabilities, noise); the first NCCL group 840
MiB, a further one 486 MiB, the first send between two GPUs 324 MiB.

Fitted to a published log of vLLM (Llama 3.1 8B, 0.90 of a GPU of 23.65 GiB are 21.29 GiB: weights 14.99,
activations 1.20, KV cache 5.01): `NON_TORCH` is what remains of it, `REST` what the activations have besides
hidden states and sampling: CUDA graphs, kernels' workspaces, what the allocator cannot use.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.fit.shape import Shape
from cluster.fit.split import Split

GIB = 2**30
MIB = 2**20
SAMPLING_BYTES = 14.07
REST = int(0.735 * GIB)
NON_TORCH = int(0.09 * GIB)
FIRST_GROUP, FURTHER_GROUP, SEND = 840 * MIB, 486 * MIB, 324 * MIB


@dataclass(frozen=True)
class Batch:
    """What vLLM's profiling run computes at once: max_num_batched_tokens and max_num_seqs."""

    tokens: int
    sequences: int


def default_batch(memory_bytes: int, gpu: str) -> Batch:
    """vLLM's defaults by the GPU's memory (vllm/engine/arg_utils.py get_batch_defaults)."""
    if memory_bytes >= 160 * GIB:
        return Batch(16_384, 1_024)
    if memory_bytes >= 70 * GIB and "a100" not in gpu.lower():
        return Batch(8_192, 1_024)
    return Batch(2_048, 256)


def activation_bytes(shape: Shape, split: Split, batch: Batch, dtype_bytes: int) -> int:
    """The peak of a forward pass or of sampling, whichever is larger, and the rest."""
    hidden = 2 * batch.tokens * shape.hidden_size * dtype_bytes
    inside = batch.tokens * _widest_layer(shape, split) * dtype_bytes
    sampling = int(min(batch.sequences, batch.tokens) * shape.vocab_size * SAMPLING_BYTES)
    return hidden + max(inside, sampling) + REST


def non_torch_bytes(split: Split) -> int:
    """Memory that PyTorch does not allocate: NCCL's, for every group that has more than one rank."""
    groups = sum(
        size > 1
        for size in (split.tensor_parallel_size, split.pipeline_parallel_size, split.data_parallel_size)
    )
    nccl = FIRST_GROUP + (groups - 1) * FURTHER_GROUP if groups else 0
    return NON_TORCH + nccl + (SEND if split.pipeline_parallel_size > 1 else 0)


def _widest_layer(shape: Shape, split: Split) -> int:
    """Values a token that live at once in the widest part of a layer: gate, up and their product."""
    tensor = split.tensor_parallel_size
    widest = 3 * shape.intermediate_size // tensor
    experts = shape.experts
    if experts:
        inside = 3 * experts.intermediate_size // (1 if split.expert_parallel else tensor)
        routed = experts.per_token * (inside + shape.hidden_size)
        widest = max(widest, routed + 3 * experts.shared_intermediate_size // tensor)
    return widest
