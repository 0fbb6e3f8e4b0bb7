"""What one look at a cluster shows, and what is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cluster.liveness.counters import Counters

State = Literal["idle", "busy", "slow", "wedged", "dead", "starting", "down", "unreachable"]
SERVING: frozenset[State] = frozenset({"idle", "busy", "slow"})
# `waiting`: asked, no answer yet. `refused`: the server answers, and will not (a wrong key, too many
# requests). `failed`: it could not, or gave no answer in time. `lost`: the line broke, nobody knows.
Outcome = Literal["waiting", "answered", "refused", "failed", "lost"]


@dataclass(frozen=True)
class Completion:
    """What became of the one token that was asked for."""

    outcome: Outcome
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Observation:
    """One look at all nodes, at the moment `at` of the watcher's monotonic clock, in seconds.

    `broken`, `missing` and `unreachable` are {node: what is wrong there}: a container that ended, one that is
    not there, and a node that does not say. `wanted`: something is there, or ought to be.
    `server` names the running server (another after a restart), empty: none runs. `looked`: its endpoints
    were tried; then `health` is the status of /health, and `closed`: nobody listens on its port.
    """

    at: float
    head_answers: bool = True
    wanted: bool = True
    broken: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    unreachable: Mapping[str, str] = field(default_factory=dict)
    server: str = ""
    looked: bool = True
    health: int | None = None
    closed: bool = False
    reason: str = ""
    counters: Counters | None = None
    completion: Completion | None = None

    @property
    def nodes(self) -> dict[str, str]:
        """{node: what is wrong there}."""
        return {**self.missing, **self.unreachable, **self.broken}


@dataclass(frozen=True)
class Liveness:
    """What the cluster is doing, why that is believed, and {node: what is wrong there}.

    `seconds` is for how long nothing was seen to move, of the time that was watched.
    """

    state: State
    why: str
    nodes: Mapping[str, str] = field(default_factory=dict)
    running: int = 0
    waiting: int = 0
    seconds: float = 0.0

    @property
    def serves(self) -> bool:
        """Whether it answers, however slowly."""
        return self.state in SERVING
