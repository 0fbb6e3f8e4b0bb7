"""Whether the model and the context asked for fit into the GPUs that are really there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cluster.errors import Problem
from cluster.facts import Facts
from cluster.plan import Plan
from cluster.prediction import predicted, smallest_gpu

# Prediction.reason: (id, what is expected).
WHY = {
    "impossible": ("tp-heads", "sizes that divide the model"),
    "positions": ("max-model-len", "at most the positions that the model knows"),
    "memory": ("kv-too-small", "room for the weights and one request"),
}


def fits(plan: Plan, facts: Mapping[str, Facts]) -> Iterator[Problem]:
    """An impossible split, or no room for the weights and one request of the longest length.

    What vLLM will need beside weights and cache is estimated: only what does not depend on it is an error.
    """
    found = predicted(plan, facts)
    if found is None or found.fits is not False:
        return
    memory, _ = smallest_gpu(facts)
    weights_alone = memory is None or (found.weight_bytes_per_rank or 0) > memory
    id_, expected = WHY.get(found.reason, WHY["memory"])
    yield Problem(
        id_,
        plan.head.name,
        f"{plan.sizes}: {found.why.removeprefix('impossible: ')}",
        expected,
        "Run `clusterctl fit` with this inventory: it lists what fits, best first",
        "error" if found.reason != "memory" or weights_alone else "warning",
    )
