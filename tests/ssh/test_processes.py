"""The engine "process", with real processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import on_node
from cluster.on_node import process_log, process_state, process_table, processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the engine `process` needs Linux's /proc")

# Two that get away from the group and the session, the second also from its parent; then a long sleep.
FAMILY = "setsid sleep 600 & (setsid setsid sleep 600 &); echo ready; exec sleep 600"
# The same, but SIGTERM is answered.
POLITE = "trap 'echo bye; kill $!; exit 7' TERM; echo ready; sleep 600 & wait"


class Node:
    """The directory of one node, the modules as they lie on it, and the verbs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "processes"
        self.home = folder
        (self.home / "on_node").mkdir()
        for name in on_node.PROCESS_ENGINE:
            (self.home / "on_node" / name).write_text(on_node.program(name))

    def __call__(self, verb: str, *argv: str) -> subprocess.CompletedProcess[str]:
        # -S -E: as fast as Python starts; the program needs nothing but the standard library.
        program = [sys.executable, "-S", "-E", "-B", "-m", "on_node.processes"]
        return subprocess.run(
            [*program, verb, "--dir", "processes", *argv],
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )

    def start(self, script: str, name: str = "p", *labels: str) -> subprocess.CompletedProcess[str]:
        options = [option for label in labels for option in ("--label", label)]
        return self("start", "--name", name, *options, "--", "sh", "-c", script)

    def stop(self, *options: str) -> None:
        self.here("stop", "--name", "p", *options)

    def remove(self) -> None:
        self.here("remove", "--name", "p")

    def here(self, verb: str, *argv: str) -> None:
        """Without a Python of its own, which is most of what a verb takes."""
        arguments = processes.parse_arguments([verb, "--dir", str(self.folder), *argv])
        arguments.verb(arguments)

    def one(self, name: str = "p") -> dict[str, Any]:
        return process_state.public(process_state.state_of(self.folder / name))

    def state(self, name: str = "p") -> dict[str, Any]:
        return process_state.state_of(self.folder / name)

    def log(self, name: str = "p") -> str:
        path = self.folder / name / "log"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    one = Node(tmp_path)
    yield one
    for folder in (path.parent for path in one.folder.glob("*/state.json")):
        process_state.kill_all(folder)


def eventually(true: Callable[[], bool]) -> None:
    assert process_table.wait_until(true, 5), "still not so after 5 s"


def kill_supervisor(node: Node) -> None:
    supervisor = node.state()["supervisor"]
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: process_table.started_ticks(supervisor) is None)


def test_a_process_that_ends_leaves_its_exit_code_and_its_stamped_output(node: Node) -> None:
    assert (
        node.start("echo out; echo err >&2; printf part; exit 3", "p", "role=head", "spec=a=b").returncode
        == 0
    )
    eventually(lambda: node.one()["finished_at"] != "")
    (seen,) = json.loads(node("inspect").stdout)
    assert (seen["name"], seen["running"], seen["exit_code"], seen["oom_killed"]) == ("p", False, 3, False)
    assert seen["labels"] == {"role": "head", "spec": "a=b"}
    lines = node("logs", "--name", "p").stdout.splitlines()
    stamps, texts = zip(*(line.split(" ", 1) for line in lines), strict=True)
    assert texts == ("out", "err", "part")
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", stamp) for stamp in stamps)
    assert list(stamps) == sorted(stamps)
    assert node("logs", "--name", "p", "--tail", "1", "--since", "60").stdout.endswith(" part\n")
    assert node("logs", "--name", "p", "--since", "2999-01-01T00:00:00Z").stdout == ""
    node.remove()
    assert list(node.folder.iterdir()) == []


def test_start_refuses_what_runs_and_what_cannot_run(node: Node) -> None:
    node.start("exec sleep 600")
    again = node.start("true")
    assert (again.returncode, again.stderr) == (1, "p is running\n")
    with pytest.raises(process_state.Refused, match="p is running; stop it first"):
        node.remove()
    nothing = node("start", "--name", "q", "--", "/no/such/program")
    assert (nothing.returncode, nothing.stderr) == (1, "/no/such/program: No such file or directory\n")
    assert not (node.folder / "q").exists()


def test_stop_asks_first(node: Node) -> None:
    node.start(POLITE)
    eventually(lambda: "ready" in node.log())
    assert node("stop", "--name", "p").returncode == 0
    assert node.one()["exit_code"] == 7
    assert node.log().endswith(" bye\n")
    assert node.start("true").returncode == 0  # a stopped name may be used again


def test_stop_ends_children_in_sessions_of_their_own(node: Node) -> None:
    node.start(FAMILY)
    eventually(lambda: len(process_state.members(node.folder / "p")) == 3)
    node.stop("--timeout", "0")
    assert process_state.members(node.folder / "p") == set()
    assert (node.one()["exit_code"], node.one()["signal"]) in [(143, "SIGTERM"), (137, "SIGKILL")]


def test_children_end_with_the_process_as_in_a_container(node: Node) -> None:
    node.start("setsid env -i sleep 600 & echo ready")
    eventually(lambda: node.one()["finished_at"] != "")
    assert process_state.members(node.folder / "p") == set()
    assert node.one()["exit_code"] == 0


def test_a_killed_supervisor_leaves_something_that_can_be_inspected_and_stopped(node: Node) -> None:
    node.start(FAMILY)
    eventually(lambda: len(process_state.members(node.folder / "p")) == 3)
    kill_supervisor(node)
    assert node.one()["running"] is True
    node.stop()
    assert process_state.members(node.folder / "p") == set()
    # Nobody was there to see how it ended.
    assert (node.one()["running"], node.one()["exit_code"]) == (False, None)
    node.remove()


def test_a_pid_that_was_used_again_is_not_ours(node: Node) -> None:
    node.start("exec sleep 600")
    kill_supervisor(node)
    path = node.folder / "p" / "state.json"
    state = json.loads(path.read_text())
    path.write_text(
        json.dumps({**state, "pid": os.getpid()})
    )  # the pid lives, but it started at another time
    assert node.one()["running"] is False
    node.stop("--timeout", "0")  # and did not kill this test


def test_after_a_reboot_nothing_runs(node: Node) -> None:
    node.start("exec sleep 600")
    path = node.folder / "p" / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot_id": "another"}))
    assert node.one()["running"] is False


def test_exec_has_the_environment_and_the_directory_of_the_process(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONLY_AT_START", "yes")
    node.start("cd /usr; echo ready; exec sleep 600")
    monkeypatch.delenv("ONLY_AT_START")
    eventually(lambda: "ready" in node.log())
    # setproctitle, in Ray's and vLLM's workers, writes over what /proc/PID/environ shows unless told not to.
    environment = process_table.environment_of(node.one()["pid"])
    assert (environment["SPT_NOENV"], environment["CLUSTERCTL_PROCESS"]) == ("1", str(node.folder / "p"))
    done = node("exec", "--name", "p", "--", "sh", "-c", "echo $ONLY_AT_START $PWD; exit 9")
    assert (done.returncode, done.stdout) == (9, "yes /usr\n")
    node.stop("--timeout", "0")
    assert node("exec", "--name", "p", "--", "true").stderr == "p is not running\n"


def test_it_runs_where_it_is_told(node: Node) -> None:
    command = ("--", "sh", "-c", "pwd")
    node("start", "--name", "p", "--workdir", "/usr", *command)
    node("start", "--name", "q", *command)
    eventually(lambda: node.log("p").endswith(" /usr\n") and node.log("q").endswith(f" {node.home}\n"))
    nowhere = node("start", "--name", "r", "--workdir", "/no/such/folder", *command)
    assert (nowhere.returncode, nowhere.stderr) == (1, "/no/such/folder: No such file or directory\n")


def test_follow_ends_with_the_process(node: Node) -> None:
    node.start("echo one; sleep 0.2; echo two")
    texts = [line.split(" ", 1)[1] for line in node("logs", "--name", "p", "--follow").stdout.splitlines()]
    assert texts == ["one", "two"]


def test_shared_memory_is_unlinked_when_nobody_has_it_mapped() -> None:
    path = Path("/dev/shm") / f"clusterctl-test-{os.getpid()}"
    code = "import mmap, sys; f = open(sys.argv[1], 'w+b'); f.truncate(1); m = mmap.mmap(f.fileno(), 1)"
    holder = subprocess.Popen(
        [sys.executable, "-S", "-c", f"{code}; print(flush=True); sys.stdin.read()", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        with holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            assert process_table.shared_memory([holder.pid]) == {str(path)}
            process_table.unlink_unused({str(path)})
            assert path.exists()
        process_table.unlink_unused({str(path)})
        assert not path.exists()
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


@pytest.mark.parametrize(
    ("text", "stamp"),
    [
        ("", b""),
        ("0.5", b"1970-01-01T00:16:39.500000000Z"),
        ("10s", b"1970-01-01T00:16:30.000000000Z"),
        ("2026-11-21T07:15:50.77Z", b"2026-11-21T07:15:50.770000000Z"),
        ("2026-11-21T08:15:50.123456789+01:00", b"2026-11-21T07:15:50.123456789Z"),
    ],
)
def test_since(text: str, stamp: bytes) -> None:
    assert process_log.since_stamp(text, 1_000 * 1_000_000_000) == stamp


def test_since_that_is_no_time() -> None:
    with pytest.raises(process_state.Refused, match="--since"):
        process_log.since_stamp("yesterday", time.time_ns())
