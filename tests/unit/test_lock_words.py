"""What nodes say of their locks, read; and what is said of it to people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lockmodel import ModelNode

from cluster.lock import messages
from cluster.lock.commands import SAYS, Fence
from cluster.lock.state import Answer, Holder, State, parse_answer, parse_state

HOLDER = Holder("ann@laptop", "boot pid:[1]", "4711", "99", "up", "2026-11-21T03:00:00Z")
STATE = State(5, "t", 5000, "boot-1", 30.0, False, False, HOLDER)


def test_a_lease_is_live_until_it_expires_is_released_or_its_boot_is_over() -> None:
    assert STATE.live(4999, "boot-1")
    assert not STATE.live(5000, "boot-1")
    assert not STATE.live(4999, "boot-2")
    assert (STATE.seconds_left(4000), STATE.seconds_silent(4000)) == (10, 20)
    assert (STATE.seconds_left(6000), STATE.seconds_silent(6000)) == (0, 40)


@given(st.builds(Holder, *[st.text()] * 6))
def test_whatever_a_holder_is_called_its_lines_are_read_back(holder: Holder) -> None:
    """White space in a value becomes one space: a value is one line."""
    node = ModelNode(lambda: 0)
    answer = parse_answer(node.acquire(1, "t", 10, "boot-1", "1.5", "", holder.about).stdout)
    assert answer and answer.ok and answer.state is None
    read = parse_state(node.text)
    assert read and read.ttl == 1.5
    assert read.holder.who == " ".join(holder.who.split())
    assert read.holder.since == " ".join(holder.since.split())


@given(st.text())
def test_what_is_no_answer_is_none(text: str) -> None:
    assert parse_state(text) is None
    assert parse_answer(text) is None
    assert parse_answer(f"answer=ok\nnow=x\nboot_now=b\n{text}") is None


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (Answer("ok", 0, "boot-1", None), "free"),
        (Answer("ok", 0, "boot-1", STATE), "held"),
        (Answer("ok", 9000, "boot-1", STATE), "expired"),
        (Answer("ok", 0, "boot-2", STATE), "rebooted"),
        (Answer("ok", 0, "boot-1", State(5, "t", 5000, "boot-1", 30.0, True, True, HOLDER)), "released"),
    ],
)
def test_the_condition_of_a_lock(answer: Answer, word: str) -> None:
    assert messages.condition(answer) == word


def test_who_holds_it_is_the_one_of_the_highest_epoch() -> None:
    older = State(4, "o", 5000, "boot-1", 30.0, False, False, Holder("bob@desk"))
    both = {"gpu-01": Answer("held", 0, "boot-1", older), "gpu-02": Answer("held", 0, "boot-1", STATE)}
    assert messages.held(both, 3).startswith("ann@laptop is at work on gpu-01, gpu-02 (2 of 3 nodes); ")


@pytest.mark.parametrize(
    ("stderr", "says"),
    [
        (f"noise\n{SAYS}refused: expired\n", "gpu-01: the node heard nothing from here for too long"),
        (f"{SAYS}cannot write inflight\n", "gpu-01: cannot write inflight"),
        ("", "gpu-01: it does not take this command"),
    ],
)
def test_why_a_node_refused(stderr: str, says: str) -> None:
    assert messages.refusal("gpu-01", stderr, SAYS).startswith(says)


def test_a_script_of_another_version_has_another_name() -> None:
    one, two = Fence("f", "echo 1"), Fence("f", "echo 2")
    assert one.path != two.path
    assert one.path.startswith("f/fence-") and one.path.endswith(".sh")
