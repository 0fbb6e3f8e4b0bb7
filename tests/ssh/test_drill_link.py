"""The link that a drill takes down comes back by itself, with all that the kernel forgot of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.drilling.breaking import breaking
from cluster.inventory import load
from cluster.lab import host
from cluster.lab.spec import Host, Lab
from cluster.plan import make_plan
from tests.reallab import reason_to_skip, running_lab, write_inventory

SKIP = reason_to_skip(engine=False)
pytestmark = pytest.mark.skipif(bool(SKIP), reason=SKIP or "never")
STATE = ("-brief address show dev eth0", "route show", "-6 route show dev eth0")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab("l", 2, engine=False) as made:
        yield made


def ip(target: Host, words: str) -> str:
    done = host.run(target, "ip", *words.split())
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_up(target: Host) -> bool:
    return "state UP" in ip(target, "link show dev eth0")


def test_a_link_goes_down_and_comes_back_as_it_was(lab: Lab, tmp_path: Path) -> None:
    target = lab.hosts[1]
    ip(target, "-6 address add fd00:231::12/64 dev eth0 nodad")
    ip(target, "-6 route add fd00:99::/48 via fd00:231::1 dev eth0")
    ip(target, f"route add 192.0.2.0/24 via {lab.operator_address} metric 7")
    before = [ip(target, words).splitlines() for words in STATE]
    plan = make_plan(load(write_inventory(lab, tmp_path / "lab.yaml")))
    broken = breaking(plan, "link", target.name, 1.0)
    assert host.run(target, *broken.step.argv).returncode == 0
    assert is_up(target), "armed, and there is time to let go of it"
    assert host.sshd_answers(target)
    until(lambda: not is_up(target))
    assert not host.sshd_answers(target, 0.2)
    until(lambda: is_up(target))
    until(lambda: [sorted(ip(target, words).splitlines()) for words in STATE] == [sorted(b) for b in before])
    until(lambda: host.sshd_answers(target))
    until(lambda: host.run(target, "sh", "-c", "ls -d /tmp/tmp.*").returncode != 0)
