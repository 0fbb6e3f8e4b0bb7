"""Each rule of the lock's protocol: what happens without it. Without the fault nothing is wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from lockworld import TTL, Message, Session, World

from cluster.lock.state import Answer, Holder, State
from cluster.lock.tenure import Clock, Tenure, grace, more_than_half, next_epoch

ALL = ("n0", "n1", "n2")


def up(world: World, *reach: str, machine: str = "a") -> Session:
    """A command that takes the lock at once, and starts as soon as it may."""
    session = world.begin(machine, True, reach or ALL)
    world.flush(session)
    session.work("n1")
    return session


def under_way(world: World, kind: str) -> Message:
    return next(message for message in world.messages if message.kind == kind)


def pass_time(world: World, centiseconds: int) -> None:
    world.now += centiseconds
    world.check()


def beat(world: World, session: Session, *nodes: str) -> None:
    for node in nodes:
        session.beat(node)
    world.flush(session)


def a_holder_that_slept(world: World) -> None:
    """Its command is under way while another takes the lock."""
    up(world)
    pass_time(world, TTL)
    world.flush(up(world, machine="b"))
    world.deliver(under_way(world, "guard"))


def a_command_that_takes_long(world: World) -> None:
    first = up(world)
    world.flush(first)
    assert world.nodes["n1"].running
    pass_time(world, TTL)
    up(world, machine="b")


def two_who_read_at_once(world: World) -> None:
    first, second = world.begin("a", True, ALL), world.begin("b", True, ALL)
    for message in [one for one in world.messages if one.session is second]:
        world.deliver(message)
    world.flush(first)
    first.release()
    world.flush(first)
    world.flush(second)


def a_partition(world: World) -> None:
    """The first keeps n0 for as long as it may; the second has the other two."""
    first = up(world)
    world.flush(first)
    pass_time(world, TTL - 1)
    beat(world, first, "n0")
    pass_time(world, 1)
    second = up(world, "n1", "n2", machine="b")
    world.check()
    pass_time(world, TTL - 1)
    beat(world, second, "n1", "n2")
    pass_time(world, 1)
    second.work("n1")
    world.check()
    assert second.phase == "working"


def a_renewal_that_was_under_way_for_long(world: World) -> None:
    first = up(world)
    world.flush(first)
    pass_time(world, TTL - 1)
    beat(world, first, "n0")
    first.beat("n0")
    second = world.begin("b", True, ("n1", "n2"))
    pass_time(world, 1)
    world.flush(second)
    pass_time(world, TTL - 2)
    world.deliver(under_way(world, "renew"))
    beat(world, second, "n1", "n2")
    pass_time(world, 2)
    second.work("n1")


def a_holder_cut_off_from_most(world: World) -> None:
    first = up(world)
    world.flush(first)
    for _ in range(5):
        pass_time(world, TTL // 2)
        beat(world, first, "n0")
    second = up(world, "n1", "n2", machine="b")
    pass_time(world, TTL // 2)
    beat(world, first, "n0")
    beat(world, second, "n1", "n2")
    pass_time(world, TTL // 2)
    second.work("n1")


def two_halves(world: World) -> None:
    up(world, "n0")
    up(world, "n1", "n2", machine="b")


def a_release_that_one_node_missed(world: World) -> None:
    """With a command to that node still under way."""
    first = up(world)
    first.release()
    for kind in ("release", "settled"):
        for message in [one for one in world.messages if one.kind == kind and one.node != "n0"]:
            world.deliver(message)
            world.deliver(message)
    up(world, "n1", "n2", machine="b")


@pytest.mark.parametrize(
    ("fault", "schedule", "what"),
    [
        ("no-epoch-check", a_holder_that_slept, "still run"),
        ("no-kill", a_command_that_takes_long, "still run"),
        ("equal-epochs", two_who_read_at_once, "granted"),
        ("no-grace", a_partition, "may both start"),
        ("durations", a_renewal_that_was_under_way_for_long, "may both start"),
        ("renews-alone", a_holder_cut_off_from_most, "may both start"),
        ("minority", two_halves, "may both start"),
        ("settled-early", a_release_that_one_node_missed, "may both start"),
    ],
)
def test_what_each_rule_is_for(fault: str, schedule: Callable[[World], None], what: str) -> None:
    play(schedule, World(3))
    with pytest.raises(AssertionError, match=what):
        play(schedule, World(3, frozenset([fault])))


def play(schedule: Callable[[World], None], world: World) -> None:
    schedule(world)
    world.check()


def state(epoch: int = 4, expires: int = 1000, released: bool = False, settled: bool = False) -> State:
    return State(epoch, f"t{epoch}", expires, "boot-1", 30.0, released, settled, Holder())


def said(of: State | None, now: int = 0, boot: str = "boot-1") -> Answer:
    return Answer("ok", now, boot, of)


def test_grace() -> None:
    lately, long_ago = said(state(expires=1000), now=1000), said(state(expires=1000), now=4000)
    assert grace({"a": lately, "b": lately}, 2, 30.0) == 0
    assert grace({"a": long_ago, "b": lately}, 3, 30.0) == 30
    assert grace({"a": long_ago, "b": long_ago}, 3, 30.0) == 0
    assert grace({"a": said(None), "b": said(None)}, 3, 30.0) == 0
    assert grace({"a": long_ago, "b": said(state(), 9999, "boot-2")}, 3, 30.0) == 60
    assert grace({"a": lately}, 2, 50.0) == 50


def test_no_grace_after_a_holder_that_ended_in_order() -> None:
    over, cut_off = said(state(released=True, settled=True)), said(state(released=True))
    assert grace({"a": over, "b": over}, 3, 30.0) == 0
    assert grace({"a": over, "b": cut_off}, 3, 30.0) == 40
    assert grace({"a": over, "b": said(state(5, released=True, settled=True))}, 3, 30.0) == 40


@pytest.mark.parametrize(("total", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_more_than_half(total: int, needed: int) -> None:
    assert more_than_half(total) == needed


def test_the_next_epoch_is_above_all() -> None:
    assert next_epoch([said(None), said(state(7)), said(state(3))]) == 8
    assert next_epoch([said(None)]) == 1


def test_a_tenure_lasts_as_long_as_a_majority_hears_it() -> None:
    tenure = Tenure(1, "t", 30.0, 2)
    assert not tenure.may_renew(0.0)
    for node, moment in (("a", 100.0), ("b", 110.0), ("c", 120.0)):
        tenure.acknowledged(node, moment)
    assert tenure.since == 110
    assert tenure.may_renew(139.9) and not tenure.may_renew(140.0)
    tenure.acknowledged("b", 90.0)
    assert tenure.since == 110
    tenure.dropped("c")
    assert tenure.since == 100
    tenure.dropped("a")
    assert tenure.since is None


def test_a_lease_ends_at_a_moment_of_the_node() -> None:
    tenure = Tenure(1, "t", 30.0, 1)
    tenure.read("a", Clock(500, "boot-1", received=100.0))
    assert tenure.expires("a", 102.0) == 500 + 200 + 3000
