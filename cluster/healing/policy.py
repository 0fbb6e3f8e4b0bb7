"""How often a cluster is restarted, and when a node is given up. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cluster.errors import count
from cluster.healing.causes import Cause
from cluster.healing.roster import MOST_RESTARTS, Restart
from cluster.inventory.model import Heal


@dataclass(frozen=True)
class RestartNow:
    """All ranks together; before it the nodes in `quarantine`, {name: reason}, fall out."""

    quarantine: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WaitFirst:
    """Seconds until the next restart is due."""

    seconds: float


@dataclass(frozen=True)
class GiveUp:
    """Too often; a person has to look."""

    why: str


Decision = RestartNow | WaitFirst | GiveUp
# Whether a spare could take a node's place, given those that fall out before it.
CanReplace = Callable[[str, tuple[str, ...]], bool]


def decide(
    settings: Heal, restarts: tuple[Restart, ...], cause: Cause, now: float, can_replace: CanReplace
) -> Decision:
    """What to do about a cause at `now` (seconds since 1970).

    Within `heal.within` seconds, `heal.max_restarts` restarts at most, the pause before each twice the one
    before. What a person asks for at once is `quarantine` alone.
    """
    recent = _recent(settings, restarts, now)
    if len(recent) >= min(settings.max_restarts, MOST_RESTARTS):
        return GiveUp(
            f"restarted {count(len(recent), 'time')} within {settings.within:g} s, and it fails again; "
            "it is left as it is until a person looks: `clusterctl doctor`, then `clusterctl heal`"
        )
    if recent:
        pause = min(settings.backoff * 2 ** (len(recent) - 1), settings.within)
        left = max(restart.time for restart in recent) + pause - now
        if left > 0:
            return WaitFirst(min(left, pause))
    return RestartNow(quarantine(settings, restarts, cause, now, can_replace))


def quarantine(
    settings: Heal, restarts: tuple[Restart, ...], cause: Cause, now: float, can_replace: CanReplace
) -> dict[str, str]:
    """{node: reason} of those that fall out.

    A node that cannot be used falls out at once. One that fails again and again falls out where a spare can
    take its place: without one, a node that works for a while is better than none.
    """
    falling = dict(cause.unusable)
    for node in cause.suspects:
        failures = 1 + sum(restart.node == node for restart in _recent(settings, restarts, now))
        if node in falling or failures < settings.quarantine_after:
            continue
        if can_replace(node, tuple(falling)):
            why = cause.of(node) or "its part of the cluster ended"
            falling[node] = f"failed {count(failures, 'time')} within {settings.within:g} s, at last: {why}"
    return falling


def _recent(settings: Heal, restarts: tuple[Restart, ...], now: float) -> list[Restart]:
    """Those within the window; one of the future, by another operator's clock, counts as of now."""
    return [restart for restart in restarts if now - restart.time <= settings.within]
