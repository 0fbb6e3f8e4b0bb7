"""Which nodes cannot serve, by what `check` finds."""

from __future__ import annotations

from cluster.checks.ids import IDS
from cluster.errors import Problem
from cluster.healing.fitness import BROKEN, unfit


def problem(node: str, id_: str) -> Problem:
    return Problem(id_, node, "it is so", "otherwise", "Mend it")


def test_the_ids_are_those_of_checks() -> None:
    assert set(IDS) >= BROKEN


def test_a_member_is_given_up_only_where_it_is_broken_itself() -> None:
    errors = [
        problem("gpu-01", "ray-port-in-use"),
        problem("gpu-02", "gpu-count"),
        problem("gpu-02", "xid-error"),
    ]
    assert unfit(errors, {"gpu-01", "gpu-02"}, ()) == {"gpu-02": "it is so; expected: otherwise [gpu-count]"}


def test_who_is_to_take_a_place_has_to_be_without_errors() -> None:
    assert set(unfit([problem("gpu-03", "ray-port-in-use")], {"gpu-01"}, {"gpu-03"})) == {"gpu-03"}


def test_what_is_of_no_node_at_hand_is_passed_over() -> None:
    assert unfit([problem("elsewhere", "gpu-count")], {"gpu-01"}, {"gpu-03"}) == {}
