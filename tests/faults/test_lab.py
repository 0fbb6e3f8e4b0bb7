"""Real hosts, a real clusterctl that is killed, cut off or failed; then one more command."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hosts
import pytest
from hosts import Seen, see

from cluster.lab import host
from cluster.lab.spec import Host, Lab
from tests.reallab import (
    Running,
    clusterctl,
    clusterctl_running,
    reason_to_skip,
    running_lab,
    write_inventory,
)

SKIP = reason_to_skip(engine=True, serves=True)
pytestmark = pytest.mark.skipif(bool(SKIP), reason=SKIP or "never")
ALL = os.environ.get("CLUSTERCTL_CAMPAIGN") == "1"
SHORT = ("kill up at Start Ray workers", "fail up at docker call 2 after", "kill down at Remove files")

WRITE, HEAD, WORKERS = "Write start scripts", "Start Ray head", "Start Ray workers"
JOIN, ARRIVED, PROVE = "Wait for every node and GPU to join", "Read what arrived at Ray", "Prove the network"
VLLM, READY = "Start vLLM", "Wait for a completion"
Break = Callable[[Lab, Running], None]


@dataclass(frozen=True)
class Case:
    """`command` breaks at the first event with these values; `then` is the one more command.

    `number` counts events from 1: the third step that is done in a phase, say. `gated`: `up` stops before the
    model, as the hosts have no InfiniBand; Ray then stands.
    """

    name: str
    command: str
    at: dict[str, Any]
    broken: Break
    then: str
    number: int = 1
    gated: bool = True
    mend: Callable[[Lab], None] = lambda _: None
    docker_fails: tuple[int, int, str] | None = None  # (node from 0, call from 1, before or after)
    begins: str = ""


def kill(_: Lab, running: Running) -> None:
    running.process.kill()
    running.process.wait()


def cut(number: int) -> Break:
    def cut_(lab: Lab, running: Running) -> None:
        host.link_down(lab.hosts[number])
        running.end(timeout=200)

    return cut_


def plug_in(lab: Lab) -> None:
    for target in lab.hosts:
        host.link_up(target)


def to_its_end(_: Lab, running: Running) -> None:
    running.end(timeout=200)


def started(phase: str) -> dict[str, Any]:
    return {"event": "phase_started", "phase": phase}


def cases() -> Iterator[Case]:
    done = {"event": "step_done"}
    for number, (phase, then) in enumerate(
        ((WRITE, "up"), (HEAD, "up"), (WORKERS, "up"), (JOIN, "down"), (ARRIVED, "down"), (PROVE, "up"))
    ):
        yield Case(f"kill up at {phase}", "up", started(phase), kill, then)
        other = "down" if then == "up" else "up"
        if number in (1, 2, 3):
            yield Case(f"kill up at {phase}, then {other}", "up", started(phase), kill, other)
    for number in (1, 9, 17):
        yield Case(f"kill up at file {number}", "up", done, kill, "down" if number == 9 else "up", number)
    for phase, node, then in ((WRITE, 1, "up"), (WORKERS, 1, "up"), (JOIN, 0, "down"), (PROVE, 1, "down")):
        yield Case(f"cut node {node + 1} at {phase}", "up", started(phase), cut(node), then, mend=plug_in)
    for node, call, when, then in (
        (0, 1, "before", "up"),
        (0, 1, "after", "up"),
        (1, 1, "before", "down"),
        (1, 1, "after", "up"),
    ):
        name = f"fail up at docker call {call if node == 0 else 2} {when}"
        yield Case(name, "up", {}, to_its_end, then, docker_fails=(node, call, when))
    for phase, then in (("Stop Ray", "down"), ("Stop Ray", "up"), ("Remove files", "down")):
        name = f"kill down at {phase}" + (", then up" if then == "up" else "")
        yield Case(name, "down", started(phase), kill, then, begins="up")
    yield Case("cut down", "down", started("Stop Ray"), cut(1), "down", mend=plug_in, begins="up")
    for call, when in ((1, "before"), (2, "after")):
        name = f"fail down at docker call {call} {when}"
        yield Case(name, "down", {}, to_its_end, "down", docker_fails=(1, call, when), begins="up")
    for phase, then in ((VLLM, "up"), (READY, "down")):
        yield Case(f"kill up at {phase}, with a model", "up", started(phase), kill, then, gated=False)
    yield Case("kill up half-way in loading", "up", {"event": "waiting"}, kill, "up", number=5, gated=False)


CASES = {case.name: case for case in cases()}


@dataclass
class Stage:
    lab: Lab
    folder: Path
    before: dict[str, Seen] = field(default_factory=dict)

    def inventory(self, gated: bool) -> Path:
        def change(content: dict[str, Any]) -> None:
            if gated:
                content["network"]["require"] = "ib"

        return write_inventory(self.lab, self.folder / "lab.yaml", change)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_lab("c", nodes=2) as lab:
        hosts.prepare(lab)
        stage = Stage(lab, tmp_path_factory.mktemp("campaign"))
        stage.before = {target.name: see(lab, target) for target in lab.hosts}
        yield stage


@pytest.mark.parametrize("name", [name for name in CASES if ALL or name in SHORT])
def test_one_more_command_makes_it_whole(
    stage: Stage, name: str, record_property: Callable[[str, object], None]
) -> None:
    case, lab = CASES[name], stage.lab
    file = stage.inventory(case.gated)
    if case.begins:
        assert "[transport-unmet]" in clusterctl(case.begins, file).stderr
    try:
        _break(case, lab, file)
        case.mend(lab)
        if case.docker_fails:
            hosts.fail_at(lab.hosts[case.docker_fails[0]], 0, "before")
        then = clusterctl(case.then, file, *(["--yes"] if case.then == "down" else []))
        _is_whole(case, stage, then.returncode, then.stderr)
        record_property("faults", (f"lab: {name}", 1, 1))
    finally:
        case.mend(lab)
        assert clusterctl("down", "--yes", file).returncode == 0


def _break(case: Case, lab: Lab, file: Path) -> None:
    if case.docker_fails:
        node, call, when = case.docker_fails
        hosts.fail_at(lab.hosts[node], call, when)
    options = ("--yes",) if case.command == "down" else ()
    with clusterctl_running(case.command, file, *options) as running:
        if case.at:
            for _ in range(case.number):
                running.until(**case.at)
        case.broken(lab, running)


def _is_whole(case: Case, stage: Stage, code: int, stderr: str) -> None:
    if case.then == "down":
        assert code == 0, stderr
        assert _soon(lambda: [rest for target in stage.lab.hosts for rest in _rests(stage, target)]) == []
        return
    if case.gated:
        assert (code, "[transport-unmet]" in stderr) == (7, True), stderr
    else:
        assert code == 0, stderr
    assert _soon(lambda: [wrong for target in stage.lab.hosts for wrong in _wrong(case, stage, target)]) == []


def _soon(look: Callable[[], list[str]], within: float = 30) -> list[str]:
    """What is still found when it had time to end."""
    deadline = time.monotonic() + within
    while (found := look()) and time.monotonic() < deadline:
        pass
    return found


def _foreign(before: Seen, now: Seen) -> Iterator[str]:
    if now.foreign != before.foreign or now.others_files != before.others_files:
        yield "what belongs to others is not as it was"
    yield from (f"{line} has ended" for line in Counter(before.programs) - Counter(now.programs))
    yield from (f"{path} is left over" for path in (*now.files, *now.kept) if path.endswith(".part"))
    yield from (f"{path} is left over" for path in now.kept if "/inflight/" in path and path[-1].isdigit())


def _rests(stage: Stage, target: Host) -> Iterator[str]:
    before, now = stage.before[target.name], see(stage.lab, target)
    yield from _foreign(before, now)
    yield from now.ours
    yield from now.files
    yield from (f"port {port}" for port in now.ports - before.ports)
    yield from (f"process {line}" for line in Counter(now.programs) - Counter(before.programs))


def _wrong(case: Case, stage: Stage, target: Host) -> Iterator[str]:
    before, now = stage.before[target.name], see(stage.lab, target)
    yield from _foreign(before, now)
    roles = ["ray"] if case.gated or target != stage.lab.hosts[0] else ["ray", "serve"]
    wanted = {f"clusterctl-{stage.lab.name}-{role}": "running" for role in roles}
    if now.ours != wanted:
        yield f"{now.ours}, expected {wanted}"
    yield from (f"process {line}" for line in now.programs if "collectives" in line)
    raylets = [line for line in now.programs if line.split()[0].endswith("/raylet")]
    if len(raylets) != 1:
        yield f"{len(raylets)} raylets"
