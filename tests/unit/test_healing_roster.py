"""The roster: what is kept of nodes that fell out and of restarts, and which node's copy counts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.healing.roster import MOST_RESTARTS, Roster, newest, parse, stamp, text, write

NOW = 1_795_238_666.0
ROSTER = (
    Roster(epoch=4)
    .with_quarantined("gpu-02", "gone: no route", stamp(NOW), "ops@laptop")
    .with_restart(stamp(NOW), "gpu-02: gone: no route", "gpu-02")
)


def test_what_is_written_is_read() -> None:
    assert parse(text(ROSTER)) == ROSTER
    assert json.loads(text(ROSTER))["quarantined"]["gpu-02"] == {
        "reason": "gone: no route",
        "since": "2026-11-21T05:24:26Z",
        "by": "ops@laptop",
    }
    assert ROSTER.restarts[0].time == NOW


def test_a_node_falls_out_once_and_comes_back() -> None:
    again = ROSTER.with_quarantined("gpu-02", "another reason", stamp(NOW + 5), "somebody@else")
    assert again == ROSTER
    assert ROSTER.out == ("gpu-02",)
    assert ROSTER.reason("gpu-02") == "gone: no route"
    back = ROSTER.without("gpu-02")
    assert (back.quarantined, back.out) == ((), ("gpu-02", "gpu-02"))
    assert back.without("gpu-02") == back
    assert ROSTER.without("gpu-02").restarts == ROSTER.restarts


def test_restarts_are_bounded() -> None:
    roster = Roster()
    for second in range(MOST_RESTARTS + 10):
        roster = roster.with_restart(stamp(NOW + second), "it ended")
    assert len(roster.restarts) == MOST_RESTARTS
    assert roster.restarts[-1].time == NOW + MOST_RESTARTS + 9


def test_the_highest_epoch_counts_and_of_one_the_last_revision() -> None:
    older = Roster(epoch=3, revision=9).with_restart(stamp(NOW), "older")
    first = Roster(epoch=5, revision=10)
    last, phase = write("demo", first.with_restart(stamp(NOW), "last"), 5, ("gpu-01", "gpu-02"))
    kept = {
        "gpu-01": {"roster.json": text(older)},
        "gpu-02": {"roster.json": text(last)},
        "gpu-03": {"roster.json": text(first)},
        "gpu-04": {},
    }
    assert newest(kept) == last
    assert [(step.node, step.path) for step in phase.steps] == [  # type: ignore[union-attr]
        ("gpu-01", ".local/state/clusterctl/demo/gpu-01/roster.json"),
        ("gpu-02", ".local/state/clusterctl/demo/gpu-02/roster.json"),
    ]
    assert newest({}) == Roster()


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "{", "[]", "null", '{"epoch": "x"}', '{"epoch": 1, "quarantined": []}'),
        '{"epoch": 1, "restarts": [{"at": "yesterday", "why": ""}]}',
        '{"epoch": 1, "quarantined": {"a": {"reason": 1}}}',
    ],
)
def test_a_file_that_is_no_roster_is_passed_over(wrong: str) -> None:
    assert parse(wrong) is None
    assert newest({"a": {"roster.json": wrong}, "b": {"roster.json": text(ROSTER)}}) == ROSTER


@given(st.text())
def test_whatever_stands_there_nothing_is_raised(content: str) -> None:
    assert parse(content) is None or content.strip()


def test_keys_of_a_later_version_are_passed_over() -> None:
    content = json.loads(text(ROSTER)) | {"later": {"more": 1}}
    content["quarantined"]["gpu-02"]["ticket"] = "OPS-1"
    assert parse(json.dumps(content)) == ROSTER
