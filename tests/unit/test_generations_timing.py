"""For how long no generation answered, from the events of a deployment and of putting the former one back."""

from __future__ import annotations

import pytest

from cluster.apply import Event, PhaseDone, PhaseStarted, StepDone
from cluster.commands import timing
from cluster.commands.timing import Timing
from cluster.phases import REMOVE
from cluster.steps import Phase, Run, Wait

READY = StepDone(Wait("gpu-01", ("sh", "run_cluster.sh", "ready"), lambda _: None, 1.0), 0.5)
JOINED = StepDone(Wait("gpu-01", ("sh", "run_cluster.sh", "nodes"), lambda _: None, 1.0), 0.5)


def started(title: str, *argv: str) -> PhaseStarted:
    return PhaseStarted(Phase(title, (Run("gpu-01", argv or ("docker", "stop", "x")),)), 1, 1)


@pytest.mark.parametrize(
    ("answering", "events", "away"),
    [
        (True, [(1, started("Get the image"))], 0),
        (True, [(1, started(REMOVE, "docker", "rm", "x")), (9, JOINED)], 0),
        (True, [(1, started(REMOVE)), (5, JOINED), (61, READY)], 60),
        (True, [(1, started(REMOVE)), (31, started(REMOVE)), (91, READY)], 90),
        # It answered, and was judged not to do: it was there until it was removed.
        (True, [(1, started(REMOVE)), (61, READY), (71, started(REMOVE)), (101, READY)], 90),
        (False, [(1, started("Start vLLM")), (61, READY)], 61),
        (True, [(1, started(REMOVE)), (61, READY), (100, JOINED)], 60),
    ],
)
def test_away(
    answering: bool, events: list[tuple[float, Event]], away: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(timing, "monotonic", lambda: now[0])
    found, heard = Timing(), list[Event]()
    listen = found.then(heard.append)
    found.begin(answering)
    for at, event in events:
        now[0] = at
        listen(event)
    assert found.away == away
    assert heard == [event for _, event in events]


def test_it_goes_on_where_nothing_came_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(timing, "monotonic", lambda: now[0])
    found = Timing()
    found.then(lambda _: None)(started(REMOVE))
    now[0] = 7.0
    assert found.away == 7.0


def test_its_own_time_adds_up() -> None:
    found = Timing()
    listen = found.then(lambda _: None)
    for _ in range(3):
        listen(PhaseDone(Phase("x", ()), 2.0, 0.25))
    assert found.own == 0.75
