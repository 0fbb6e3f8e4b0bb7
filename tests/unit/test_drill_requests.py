"""What is counted of the requests, and what is said of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.drilling.breaking import Break
from cluster.drilling.report import Drill, drill_json, lines
from cluster.drilling.requests import Request, Tally, answered_since, tally
from cluster.steps import Run

BREAK = Break("worker", Run("gpu-02", ("docker", "kill", "ray")), "SIGKILL to ray")


def ok(sent: float, took: float = 0.2) -> Request:
    return Request(sent, sent + took)


def lost(sent: float, took: float = 0.1, why: str = "refused") -> Request:
    return Request(sent, sent + took, why)


def test_an_outage() -> None:
    """Broken at 10: one was under way, three more were lost; from 40 on it answers."""
    found = tally(
        [ok(8), ok(9), lost(9.8, 5.2, "reset"), lost(12, 0.5), lost(20), lost(30), ok(40, 1.0), ok(41)],
        broke=10.0,
    )
    assert found == Tally(
        sent=8, answered=4, lost=4, in_flight=1, first_lost=2.5, again=31.0, why=("refused", "reset")
    )


def test_nothing_was_lost() -> None:
    found = tally([ok(8), ok(9.9), ok(11)], broke=10.0)
    assert (found.lost, found.first_lost, found.again) == (0, None, None)
    drill = Drill(BREAK, found, noticed=None, found="")
    assert drill.serves
    assert lines(drill)[1:3] == (
        "noticed: never, it served all the time",
        "served again: it never stopped, no request was lost",
    )


def test_one_that_was_lost_before_is_lost_and_no_part_of_the_outage() -> None:
    found = tally([lost(2), ok(8), ok(11)], broke=10.0)
    assert (found.lost, found.in_flight, found.again) == (1, 0, None)


def test_it_never_serves_again() -> None:
    drill = Drill(BREAK, tally([ok(8), lost(11)], 10.0), 3.21, "dead: gpu-02: ray", "no spare")
    assert not drill.serves
    assert lines(drill) == (
        "worker of gpu-02: SIGKILL to ray",
        "noticed after 3.2 s: dead: gpu-02: ray",
        "does not serve again: no spare",
        "2 requests: 1 answered, 1 lost, 0 of these under way when it broke",
        "  lost: refused",
    )
    shown = drill_json(drill)
    assert (shown["seconds_to_detect"], shown["seconds_to_serve_again"], shown["serves"]) == (
        3.21,
        None,
        False,
    )
    assert shown["requests"]["lost"] == 1


def test_an_answer_between_two_losses_is_no_end_of_the_outage() -> None:
    found = tally([ok(8), lost(11), ok(12), lost(13), ok(20, 0.5)], 10.0)
    assert found.again == 10.5


def test_answers_in_a_row_count_from_the_last_loss() -> None:
    assert answered_since([ok(1), ok(2)], 0.0) == 2
    assert answered_since([ok(1), lost(2), ok(3)], 0.0) == 1
    assert answered_since([ok(1), ok(11)], 10.0) == 1
    assert answered_since([], 0.0) == 0


REQUESTS = st.lists(
    st.builds(
        lambda sent, took, why: Request(sent, sent + took, why),
        st.floats(0, 100),
        st.floats(0, 30),
        st.sampled_from(["", "", "refused", "reset"]),
    )
)


@given(REQUESTS, st.floats(0, 100))
def test_every_request_is_counted_once(requests: list[Request], broke: float) -> None:
    found = tally(requests, broke)
    assert found.sent == len(requests) == found.answered + found.lost
    assert 0 <= found.in_flight <= found.lost
    assert found.first_lost is None or found.first_lost >= 0
    if found.again is not None:
        assert found.first_lost is not None


@given(REQUESTS, st.floats(0, 100))
def test_the_order_in_which_they_ended_does_not_matter(requests: list[Request], broke: float) -> None:
    forward, backward = tally(requests, broke), tally(requests[::-1], broke)
    assert set(forward.why) == set(backward.why)
    assert (forward.again, forward.lost) == (backward.again, backward.lost)
