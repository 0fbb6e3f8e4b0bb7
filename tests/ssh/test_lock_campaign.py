"""Two and three real controllers on real hosts with a stubbed engine, over random schedules of faults.

CLUSTERCTL_CAMPAIGN=1 plays 200 schedules; without it a few.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from reallab import clusterctl, reason_to_skip, running_lab, write_inventory

from cluster.lab import host
from cluster.lab.spec import Lab
from cluster.lock.messages import LOST_REMEDY

SKIP = reason_to_skip(engine=False)
pytestmark = pytest.mark.skipif(bool(SKIP), reason=SKIP or "never")

SCHEDULES = 200 if os.environ.get("CLUSTERCTL_CAMPAIGN") == "1" else 10
TTL = 2.0  # seconds
PATIENCE = 12.0  # seconds for which a controller tries to get the lock
DRIVER = Path(__file__).parents[1] / "lockdriver.py"
MOMENTS = ("held", "Remove", "Start the head", "Start the workers", "Wait")
# An engine's client that takes its time. It says that something starts before it does and that it stopped
# after it did, so that what a kill leaves between the two counts as running. It does not go on while there is
# a file that says so.
ENGINE = """\
#!/bin/sh
set -eu
log() { read -r now _ </proc/uptime; echo "$now $*" >>engine.log; }
case $1 in
  ps) cat running 2>/dev/null || true ;;
  rm) sleep 0.05; while [ -e "hold-$3" ]; do sleep 0.05; done; rm -f running; log stop "$2" "$3" "$4" ;;
  run) sleep 0.1; log start "$2" "$3" "$4"; echo "$2 $3" >running ;;
esac
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab("k", 3, engine=False) as made:
        for target in made.hosts:
            write = 'cd && printf %s "$0" >docker && chmod 755 docker'
            assert host.run(target, "sh", "-c", write, ENGINE).returncode == 0
        yield made


@pytest.fixture(scope="module")
def inventory(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def change(content: dict[str, Any]) -> None:
        content["lock"] = {"expires_after": TTL}
        content["ssh"]["connect_timeout"] = 5

    return write_inventory(lab, tmp_path_factory.mktemp("lock") / "lab.yaml", change)


@pytest.fixture(autouse=True)
def _fresh(lab: Lab) -> None:
    for target in lab.hosts:
        host.run(target, "sh", "-c", "rm -f ~/engine.log")


@dataclass
class Controller:
    """A process that brings up a generation with its head on a node of its own."""

    head: str
    generation: str
    patience: float = PATIENCE
    said: list[str] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None

    def start(self, inventory: Path, *more: str) -> None:
        argv = [
            sys.executable,
            str(DRIVER),
            str(inventory),
            self.head,
            self.generation,
            str(self.patience),
            *more,
        ]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def until(self, moment: str) -> bool:
        """Read on until it says so; False where it ended before."""
        assert self.process and self.process.stdout
        for line in self.process.stdout:
            self.said.append(line.rstrip())
            if line.partition(" ")[2].startswith(moment):
                return True
        return False

    def signal(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)

    def end(self) -> int:
        """Its exit code."""
        self.until("there is no such moment")
        assert self.process
        with self.process as process:
            return process.wait(60)


@dataclass(frozen=True)
class Fate:
    """What happens to a controller, and when: so long after it came to a moment, for so many seconds."""

    begins: float
    what: str  # nothing, kill, stop, or the name of a node whose link goes down
    moment: str
    after: float
    lasts: float


def fates(rng: random.Random, lab: Lab) -> list[Fate]:
    what = ("nothing", "kill", "kill", "stop", "stop", *(target.name for target in lab.hosts))
    return [
        Fate(
            rng.uniform(0, 1.0),
            rng.choice(what),
            rng.choice(MOMENTS),
            rng.uniform(0, 0.3),
            rng.uniform(0.3, 2.0) * TTL,
        )
        for _ in range(rng.choice((2, 2, 3)))
    ]


def meet(controller: Controller, fate: Fate, lab: Lab, inventory: Path, cable: threading.Lock) -> int:
    """One controller and its fate, to the end of both; its exit code."""
    pause = threading.Event().wait
    pause(fate.begins)
    controller.start(inventory)
    if fate.what != "nothing" and controller.until(fate.moment):
        pause(fate.after)
        if fate.what == "kill":
            controller.signal(signal.SIGKILL)
        elif fate.what == "stop":
            controller.signal(signal.SIGSTOP)
            pause(fate.lasts)
            controller.signal(signal.SIGCONT)
        else:
            target = next(one for one in lab.hosts if one.name == fate.what)
            with cable:
                host.link_down(target)
                pause(fate.lasts)
                host.link_up(target)
    return controller.end()


@dataclass(frozen=True)
class Done:
    """One line of an engine's log. The hosts have one kernel, and so one clock."""

    at: float
    epoch: int
    node: str
    verb: str
    role: str
    generation: str


def history(lab: Lab) -> list[Done]:
    found = []
    for target in lab.hosts:
        for line in host.run(target, "sh", "-c", "cat ~/engine.log || true").stdout.splitlines():
            at, verb, role, generation, epoch = line.split()
            found.append(Done(float(at), int(epoch), target.name, verb, role, generation))
    return sorted(found, key=lambda done: (done.at, done.epoch))


def assert_one_at_a_time(found: list[Done]) -> None:
    """Never two heads, never two generations, and never a word of an older epoch after one of a newer."""
    by_epoch: dict[int, set[str]] = {}
    for done in found:
        by_epoch.setdefault(done.epoch, set()).add(done.generation)
    assert [epoch for epoch, generations in by_epoch.items() if len(generations) > 1] == []
    assert [pair for pair in itertools.pairwise(found) if pair[0].epoch > pair[1].epoch] == []
    running: dict[str, Done] = {}
    for done in found:
        running.pop(done.node, None)
        if done.verb == "start":
            running[done.node] = done
        assert len({one.generation for one in running.values()}) <= 1, running
        assert sum(one.role == "head" for one in running.values()) <= 1, running


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_never_two_heads_and_never_two_generations(
    lab: Lab, inventory: Path, seed: int, record_property: Callable[[str, object], None]
) -> None:
    destined = fates(random.Random(seed), lab)
    heads = itertools.cycle(target.name for target in lab.hosts)
    controllers = [Controller(next(heads), f"g{seed}-{number}") for number in range(len(destined))]
    cable = threading.Lock()  # one link at a time, or its end would be another's
    with ThreadPoolExecutor(len(destined)) as threads:
        futures = [
            threads.submit(meet, controller, fate, lab, inventory, cable)
            for controller, fate in zip(controllers, destined, strict=True)
        ]
        codes = [future.result() for future in futures]
    story = [(fate, code, one.said) for fate, code, one in zip(destined, codes, controllers, strict=True)]
    assert set(codes) <= {0, 4, 6, 7, -signal.SIGKILL}, story
    assert_one_at_a_time(history(lab))
    last = Controller(lab.hosts[seed % 3].name, f"g{seed}-last")
    last.start(inventory)
    assert last.end() == 0, (last.said, story)
    found = history(lab)
    assert_one_at_a_time(found)
    assert [(one.verb, one.generation) for one in found[-3:]] == [("start", last.generation)] * 3
    record_property("met", [(fate.what, code) for fate, code in zip(destined, codes, strict=True)])


def stopped_while_removing(lab: Lab, inventory: Path, name: str, *more: str) -> Controller:
    """One that sleeps while its first command goes on, on a node."""
    host.run(lab.hosts[0], "sh", "-c", f"touch ~/hold-{name}")
    controller = Controller(lab.hosts[0].name, name)
    controller.start(inventory, *more)
    assert controller.until("Remove"), controller.said
    controller.signal(signal.SIGSTOP)
    return controller


def wake(lab: Lab, controller: Controller) -> int:
    """It goes on; its exit code."""
    host.run(lab.hosts[0], "sh", "-c", f"rm ~/hold-{controller.generation}")
    controller.signal(signal.SIGCONT)
    return controller.end()


def overtaken(lab: Lab, inventory: Path, name: str, *more: str) -> tuple[Controller, Controller]:
    """One that sleeps past its expiry, before it starts a head, until another has its own."""
    sleeper = stopped_while_removing(lab, inventory, f"{name}-sleeper", *more)
    other = Controller(lab.hosts[1].name, f"{name}-other")
    other.start(inventory)
    assert other.end() == 0, other.said
    return sleeper, other


def test_a_holder_that_slept_past_its_expiry_can_start_nothing(lab: Lab, inventory: Path) -> None:
    sleeper, other = overtaken(lab, inventory, "s")
    assert wake(lab, sleeper) == 7, sleeper.said
    assert "LockLostError up: the lock is lost: " in sleeper.said[-1 - len(LOST_REMEDY.splitlines()[1:])]
    assert_one_at_a_time(history(lab))
    assert {done.generation for done in history(lab) if done.verb == "start"} == {other.generation}


def with_expiry(inventory: Path, seconds: float) -> Path:
    changed = inventory.with_name(f"expires-after-{seconds:g}.yaml")
    changed.write_text(inventory.read_text().replace(f"expires_after: {TTL}", f"expires_after: {seconds}"))
    assert str(seconds) in changed.read_text()
    return changed


def test_a_dead_holder_on_this_machine_keeps_nobody_waiting(lab: Lab, inventory: Path) -> None:
    long = with_expiry(inventory, 300)
    killed = Controller(lab.hosts[0].name, "k-killed")
    other = Controller(lab.hosts[1].name, "k-other", patience=0)
    killed.start(long)
    assert killed.until("Start the head")
    killed.signal(signal.SIGKILL)
    assert killed.end() == -signal.SIGKILL
    other.start(long)
    assert other.end() == 0, other.said
    assert_one_at_a_time(history(lab))


def test_a_person_takes_it_away(lab: Lab, inventory: Path) -> None:
    long = with_expiry(inventory, 300)
    holder = stopped_while_removing(lab, long, "r-holder")
    held = [json.loads(line) for line in clusterctl("lock", "status", long, "--json").stdout.splitlines()]
    assert [one["lock"] for one in held] == ["held"] * 3
    assert holder.process and {one["pid"] for one in held} == {str(holder.process.pid)}
    refused = clusterctl("down", "--yes", long)
    assert refused.returncode == 6 and f"up (process {held[0]['pid']})" in refused.stderr
    assert clusterctl("lock", "release", "--yes", long).returncode == 0
    assert wake(lab, holder) == 7, holder.said
    assert not [done for done in history(lab) if done.verb == "start"]


def test_without_the_fence_two_heads_would_be_seen(lab: Lab, inventory: Path) -> None:
    sleeper, _ = overtaken(lab, inventory, "u", "unfenced")
    wake(lab, sleeper)
    with pytest.raises(AssertionError):
        assert_one_at_a_time(history(lab))
