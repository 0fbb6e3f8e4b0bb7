"""Whether the model and the context asked for fit into the GPUs that are really there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cluster.errors import Problem
from cluster.facts import Facts
from cluster.plan import Plan
from cluster.prediction import predicted, smallest_gpu


def fits(plan: Plan, facts: Mapping[str, Facts]) -> Iterator[Problem]:
    """An impossible split, or no room for the weights and one request of the longest length.

    What vLLM will need beside weights and cache is estimated: only what does not depend on it is an error.
    """
    found = predicted(plan, facts)
    if found is None or found.fits is not False:
        return
    memory, _ = smallest_gpu(facts)
    certain = memory is None or (found.weight_bytes_per_rank or 0) > memory
    if found.why.startswith("impossible: "):
        id_, expected, certain = "tp-heads", "sizes that divide the model", True
    elif "positions" in found.why:
        id_, expected, certain = "max-model-len", "at most the positions that the model knows", True
    else:
        id_, expected = "kv-too-small", "room for the weights and one request"
    yield Problem(
        id_,
        plan.head.name,
        f"{plan.sizes}: {found.why.removeprefix('impossible: ')}",
        expected,
        "Run `clusterctl fit` with this inventory: it lists what fits, best first",
        "error" if certain else "warning",
    )
