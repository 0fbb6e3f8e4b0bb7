"""How often a cluster is restarted, how long it waits in between, and when a node falls out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.healing.causes import Cause
from cluster.healing.policy import Decision, GiveUp, RestartNow, WaitFirst, decide, quarantine
from cluster.healing.roster import Restart, stamp
from cluster.inventory.model import Heal

NOW = 1_795_238_666.0
HEAL = Heal(max_restarts=4, within=600.0, backoff=10.0, quarantine_after=3)
SERVER = Cause(("gpu-01: the serve container exited with code 1",))
WORKER = Cause(("gpu-02: the ray container exited with code 137",), suspects=("gpu-02",))
GONE = Cause(("gpu-02: gone: no route",), {"gpu-02": "gone: no route"})


def restarts(*ago: float, node: str = "") -> tuple[Restart, ...]:
    """Restarts so many seconds ago."""
    return tuple(Restart(at=stamp(NOW - seconds), why="it ended", node=node) for seconds in ago)


def after(*ago: float, cause: Cause = SERVER, node: str = "", spare: bool = True) -> Decision:
    return decide(HEAL, restarts(*ago, node=node), cause, NOW, lambda *_: spare)


def test_the_first_restart_is_at_once() -> None:
    assert after() == RestartNow()
    assert after(601) == RestartNow()


@pytest.mark.parametrize(
    ("ago", "seconds"),
    [((4.0,), 6.0), ((60.0, 4.0), 16.0), ((90.0, 60.0, 4.0), 36.0), ((90.0, 60.0, 40.0), 0)],
)
def test_each_pause_is_twice_the_one_before(ago: tuple[float, ...], seconds: float) -> None:
    assert after(*ago) == (WaitFirst(seconds) if seconds else RestartNow())


def test_it_gives_up_when_it_was_too_often() -> None:
    decision = after(500, 400, 300, 200)
    assert isinstance(decision, GiveUp)
    assert decision.why.startswith("restarted 4 times within 600 s, and it fails again")
    assert after(700, 400, 300, 200) == RestartNow()


def test_a_clock_that_is_behind_waits_no_longer_than_the_pause() -> None:
    assert after(-3600.0) == WaitFirst(10.0)


def test_a_node_that_is_gone_falls_out_at_once() -> None:
    assert after(cause=GONE) == RestartNow({"gpu-02": "gone: no route"})


def test_a_node_that_keeps_failing_falls_out_with_its_reason() -> None:
    assert after(300, cause=WORKER, node="gpu-02") == RestartNow()
    assert after(400, 300, cause=WORKER, node="gpu-02") == RestartNow(
        {"gpu-02": "failed 3 times within 600 s, at last: the ray container exited with code 137"}
    )
    assert after(400, 300, cause=WORKER, node="gpu-03") == RestartNow()


def test_without_a_spare_it_stays() -> None:
    assert after(400, 300, cause=WORKER, node="gpu-02", spare=False) == RestartNow()


def test_who_asks_by_hand_is_not_made_to_wait() -> None:
    assert quarantine(HEAL, restarts(2, 1), WORKER, NOW, lambda *_: True) == {}
    assert "gpu-02" in quarantine(HEAL, restarts(2, 1, node="gpu-02"), WORKER, NOW, lambda *_: True)


@given(st.lists(st.floats(1, 3000), max_size=12), st.integers(1, 6), st.floats(0.1, 100), st.floats(10, 1000))
def test_in_any_window_there_are_no_more_restarts_than_allowed(
    steps: list[float], most: int, backoff: float, within: float
) -> None:
    """Whoever asks again and again, at whatever times, restarts at most `max_restarts` times a window."""
    heal = Heal(max_restarts=most, within=within, backoff=backoff, quarantine_after=3)
    now, done = NOW, list[Restart]()
    for step in steps * 4:
        now = round(now + step)
        if isinstance(decide(heal, tuple(done), SERVER, now, lambda *_: True), RestartNow):
            done.append(Restart(at=stamp(now), why=""))
    times = [restart.time for restart in done]
    for time in times:
        window = [other for other in times if 0 <= other - time <= within]  # a sum would be rounded
        assert len(window) <= most
    assert all(later - earlier >= min(backoff, within) - 0.001 for earlier, later in pairwise(times))
