"""The nodes beside the cluster, as `status` and `quarantine` show them."""

from __future__ import annotations

import pytest
from samples import inventory

from cluster.commands.others import Others, others, show
from cluster.healing.roster import Roster
from cluster.inventory.spares import played

ONE = inventory(
    {
        "nodes": [
            {"name": "a", "address": "10.0.0.1", "gpus": 1},
            {"name": "b", "address": "10.0.0.2", "gpus": 1},
            {"name": "s", "address": "10.0.0.3", "gpus": 1, "spare": True},
        ]
    }
)
AT, BY = "2026-11-21T05:24:26Z", "ops@laptop"


def beside(roster: Roster, unreachable: dict[str, str] | None = None) -> Others:
    return others(ONE, played(ONE, roster.out, looking=True), roster, unreachable or {})


def states(found: Others) -> dict[str, tuple[str, str]]:
    return {spare.name: (spare.state, spare.replaces) for spare in found.spares}


def test_a_spare_that_stands_by_and_one_that_is_away() -> None:
    assert states(beside(Roster())) == {"s": ("standing by", "")}
    assert states(beside(Roster(), {"s": "no answer"})) == {"s": ("unreachable", "")}


def test_a_spare_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    found = beside(Roster().with_quarantined("b", "its fan", AT, BY))
    assert states(found) == {"s": ("in use", "b")}
    assert found.quarantined[0].replaced_by == "s"
    show(found)
    said = f"! b is in quarantine since {AT} ({BY}): its fan; s has its place"
    assert said in capsys.readouterr().out.splitlines()


def test_a_node_that_came_back_stands_by() -> None:
    assert states(beside(Roster().with_quarantined("b", "its fan", AT, BY).without("b"))) == {
        "b": ("standing by", ""),
        "s": ("in use", "b"),
    }


def test_nobody_replaces_the_second_one(capsys: pytest.CaptureFixture[str]) -> None:
    found = beside(
        Roster().with_quarantined("b", "its fan", AT, BY).with_quarantined("a", "its disk", AT, BY)
    )
    show(found)
    assert "its disk; nothing replaces it" in capsys.readouterr().out


def test_a_spare_in_quarantine(capsys: pytest.CaptureFixture[str]) -> None:
    found = beside(Roster().with_quarantined("s", "its fan", AT, BY))
    assert states(found) == {"s": ("in quarantine", "")}
    show(found)
    assert capsys.readouterr().out.splitlines()[-1] == f"! s is in quarantine since {AT} ({BY}): its fan"
