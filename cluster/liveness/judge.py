"""From what was seen to one word, and whether to ask for a completion. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.liveness.history import CLOSED_ROUNDS, History
from cluster.liveness.model import Liveness, Observation, State


def judge(history: History) -> Liveness:
    """What the cluster is doing. Raises ValueError before the first look."""
    now = history.last
    if now is None:
        raise ValueError("nothing was seen yet")
    if not now.head_answers and not now.broken:
        beside = "" if now.health is None else f"; its server answers others: /health says {now.health}"
        return Liveness("unreachable", f"{_at(now.unreachable)}{beside}", now.nodes)
    if not now.wanted:
        return Liveness("down", "nothing of this cluster is there", now.unreachable)
    reason = _why_dead(history, now)
    if reason:
        return Liveness("dead", reason, now.nodes)
    if now.missing or not history.listened:
        why = _at(now.missing) if now.missing else f"the server does not listen yet: {now.reason}"
        return Liveness("starting", why, now.nodes)
    return _of_server(history, now)


def ask_due(history: History) -> bool:
    """Whether to ask for a completion now; one that is under way is the caller's to know of."""
    now, settings = history.last, history.settings
    if now is None or not now.head_answers or not now.server or not history.listened or _asleep(history):
        return False
    since_asked = settings.wedged_after if history.asked is None else history.watched - history.asked
    if history.moved_now:
        return False
    if (_doubtful(history, now) or not history.proven) and not history.refused:
        return True
    return min(history.still, since_asked) >= settings.wedged_after


def heal_due(history: History, found: Liveness) -> bool:
    """Whether it will not come back by itself.

    A head that cannot be reached is given `wedged_after` seconds, and all the time there is while its server
    answers others. What was taken down stays down.
    """
    if found.state == "unreachable":
        return _gone_for(history) >= history.settings.wedged_after
    return found.state in ("dead", "wedged")


def _gone_for(history: History) -> float:
    """Seconds for which the head has not answered, while nobody else could reach its server either."""
    now = history.last
    if now is None or history.away is None or now.health is not None or not now.wanted:
        return 0.0
    return now.at - history.away


def _doubtful(history: History, now: Observation) -> bool:
    """Whether it should have moved, or something beside it is wrong."""
    requests = history.counters.requests if history.counters is not None else 0
    return bool(
        requests or now.nodes or now.health != 200 or now.counters is None or history.unanswered is not None
    )


def _why_dead(history: History, now: Observation) -> str:
    if now.broken:
        return _at(now.broken)
    if now.health == 503:
        return "the engine is dead: /health answers 503"
    if now.missing and history.served:
        return _at(now.missing)
    if history.listened and history.closed >= CLOSED_ROUNDS:
        return f"the server has stopped listening: {now.reason}"
    limit = history.settings.ready_timeout
    if not history.listened and history.watched - history.began > limit:
        return f"not ready within serve.ready_timeout ({limit:g} s): {_at(now.missing) or now.reason}"
    return ""


def _of_server(history: History, now: Observation) -> Liveness:
    counted = history.counters
    state, why = _state(history, now)
    running, waiting = (counted.running, counted.waiting) if counted is not None else (0, 0)
    return Liveness(state, why, now.nodes, running, waiting, round(history.still, 1))


def _state(history: History, now: Observation) -> tuple[State, str]:
    if _asleep(history):
        return "idle", "asleep: vLLM was told to"
    if _is_wedged(history, now):
        return "wedged", _why_wedged(history, now)
    if history.blind > 1:
        return (
            "slow",
            f"vLLM's counters cannot be read: {now.reason or 'it counts nothing (disable_log_stats)'}",
        )
    requests = history.counters.requests if history.counters is not None else 0
    if history.moved_now or history.still == 0:  # at the first look there is nothing to compare it with
        return ("busy", _count(history)) if requests else ("idle", _count(history))
    if requests:
        return "slow", f"{_count(history)}, and nothing moved for {history.still:.0f} s"
    if history.waits > history.settings.interval:
        return "slow", f"a completion waits for {history.waits:.0f} s, and nothing moved"
    return "idle", _count(history)


def _is_wedged(history: History, now: Observation) -> bool:
    """A server that answers /metrics and counts nothing may have a long queue: nobody can tell."""
    counts = now.counters is not None or now.health is None
    return counts and history.waits >= history.settings.wedged_after


def _why_wedged(history: History, now: Observation) -> str:
    said = "no answer" if now.health is None else str(now.health)
    return (
        f"no counter moved and no completion was answered for {history.waits:.0f} s; /health says {said}"
        f" ({_count(history)})"
    )


def _count(history: History) -> str:
    if history.counters is None:
        return "it answers"
    return f"{history.counters.running} running, {history.counters.waiting} waiting"


def _asleep(history: History) -> bool:
    return history.counters is not None and history.counters.asleep


def _at(nodes: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {what}" for name, what in nodes.items())
