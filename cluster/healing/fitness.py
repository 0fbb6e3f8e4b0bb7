"""Which nodes of those that are to serve cannot, by what `check` finds of them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from cluster.errors import Problem

# The node itself is broken. What else stops `up` (a port in use, a full disk) passes, or is no node's fault.
BROKEN = frozenset(
    (
        *("docker-daemon-down", "container-refused", "container-hangs", "nvidia-runtime-missing"),
        *("container-lost-gpu", "driver-lib-mismatch", "driver-not-loaded", "gpu-count", "xid-error"),
        *("fabricmanager-down", "mount-missing", "nccl-no-iface", "nccl-wrong-iface"),
    )
)


def unfit(errors: Iterable[Problem], members: Collection[str], newcomers: Collection[str]) -> dict[str, str]:
    """{node: why}, of `members` that are broken, and of `newcomers` in their places that any error is of."""
    found: dict[str, str] = {}
    for problem in errors:
        broken = problem.node in members and problem.id in BROKEN
        if broken or problem.node in newcomers:
            found.setdefault(problem.node, f"{problem.what} [{problem.id}]")
    return found
