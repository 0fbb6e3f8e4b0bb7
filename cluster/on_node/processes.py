"""The engine "process": what a container engine does for clusterctl, on nodes that have none.

    python3 processes.py start   --dir D --name N [--label k=v ...] -- ARGV...
    python3 processes.py inspect --dir D
    python3 processes.py logs    --dir D --name N [--since SECONDS|RFC3339] [--tail N] [--follow]
    python3 processes.py exec    --dir D --name N -- ARGV...
    python3 processes.py stop    --dir D --name N [--timeout S]
    python3 processes.py remove  --dir D --name N

D is the node's directory; D/N holds state.json (what was started), exit.json (how it ended) and log. `start`
leaves a supervisor behind in a session of its own, so that the process survives the SSH connection: it stamps
every line of output with the time, as `docker logs --timestamps` does, and records the end.

Two things make this safe to use on a machine with other work on it. A pid alone is never trusted: it counts
only with the start time that the kernel gave the process, so a pid that was used again is never taken for
ours. And what belongs to a process is found by descent from its supervisor and, should that have been killed,
by a variable in its environment, CLUSTERCTL_PROCESS=D/N, because Ray starts children in sessions and process
groups of their own. Nobody else's Ray is ever touched, which `ray stop` cannot promise. As in a container,
all of that ends when the process itself ends.

Needs /proc, hence Linux.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import datetime
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

MARK = "CLUSTERCTL_PROCESS"
# setproctitle, which Ray and vLLM call in every worker, writes the title over the environment that /proc
# shows, and with it over the mark, unless this is set:
# https://github.com/dvarrazzo/py-setproctitle#environment-variables
KEEP_ENVIRONMENT = "SPT_NOENV"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?\d*([Zz]|[+-]\d\d:\d\d)")
POLL_S = 0.02  # there is no event for "they, who are not our children, are gone", nor for "a file grew"
PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
KILL_TIMEOUT_S = 10.0
LAST_OUTPUT_S = 2.0


class Refused(Exception):
    """What was asked cannot be done; one line for a person."""


def main() -> None:
    arguments = parse_arguments(sys.argv[1:])
    try:
        sys.exit(arguments.verb(arguments))
    except Refused as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # whoever read our output is gone, e.g. `logs --follow` over a closed connection
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except KeyboardInterrupt:
        sys.exit(130)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    own, command = split_at_dashes(argv)
    parser = argparse.ArgumentParser(description="Run processes as a container engine would.")
    verbs = parser.add_subparsers(required=True)

    def add(name: str, verb: Callable[[argparse.Namespace], int | None], named: bool = True) -> Any:
        one = verbs.add_parser(name)
        one.set_defaults(verb=verb, command=command)
        one.add_argument("--dir", type=Path, required=True)
        if named:
            one.add_argument("--name", type=valid_name, required=True)
        return one

    add("start", start).add_argument("--label", action="append", default=[], type=key_value)
    add("inspect", inspect, named=False)
    logs_parser = add("logs", logs)
    logs_parser.add_argument("--since", default="", help="seconds ago, or a time as in the log")
    logs_parser.add_argument("--tail", type=int, default=-1)
    logs_parser.add_argument("--follow", action="store_true")
    add("exec", execute)
    add("stop", stop).add_argument(
        "--timeout", type=float, default=10.0, help="seconds between SIGTERM and SIGKILL"
    )
    add("remove", remove)
    arguments = parser.parse_args(own)
    arguments.dir = arguments.dir.resolve()
    if bool(command) != (arguments.verb in (start, execute)):
        parser.error("start and exec, and only they, take a command after --")
    return arguments


def split_at_dashes(argv: list[str]) -> tuple[list[str], list[str]]:
    """What is ours and what follows the first `--`; argparse would swallow options of the command."""
    at = argv.index("--") if "--" in argv else len(argv)
    return argv[:at], argv[at + 1 :]


def valid_name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name: letters, digits, '_', '.', '-'")
    return text


def key_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    return key, value


# What the kernel says about a process


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command name; empty if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()  # the name, in parentheses, may itself hold spaces and parentheses


def started_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is none, or only its zombie."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields and fields[0] not in ("Z", "X") else None


def is_same(pid: int, ticks: int | None) -> bool:
    return ticks is not None and started_ticks(pid) == ticks


def boot_id() -> str:
    """Start times count from boot: after another boot, the same pid with the same ticks is somebody else."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def environment_of(pid: int) -> dict[str, str]:
    """The environment a process was started with; empty if it is gone or not ours to read."""
    try:
        blob = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (os.fsdecode(item).partition("=") for item in blob.split(b"\0") if b"=" in item)
    return {key: value for key, _, value in pairs}


def is_marked(pid: int, mark: str) -> bool:
    try:
        return os.fsencode(f"{MARK}={mark}") in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it ended in between, or belongs to another user and hence not to us
        return False


def members(folder: Path) -> set[int]:
    """The living processes of this folder: with its mark, or below its supervisor; and their descendants."""
    parents = {}
    for pid in all_pids():
        fields = stat_fields(pid)
        if fields and fields[0] not in ("Z", "X"):
            parents[pid] = int(fields[1])
    state = read_json(folder / "state.json")
    above = (
        {state["supervisor"]}
        if state and is_same(state["supervisor"], state["supervisor_started"])
        else set()
    )
    found: set[int] = set()
    more = {pid for pid, parent in parents.items() if parent in above or is_marked(pid, str(folder))}
    while more - found:
        found |= more
        more = {pid for pid, parent in parents.items() if parent in found}
    return found - above - {os.getpid()}


def shared_memory(pids: Iterable[int]) -> set[str]:
    """The files under /dev/shm that these processes have mapped."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text(errors="replace")
            found.update(re.findall(r" (/dev/shm/[^\s/]+)$", maps, re.MULTILINE))
    return found


def all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def out_of_memory_kills() -> int:
    """How often the kernel has killed for want of memory since boot, in any cgroup."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


# The state of one process, in its folder


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all: a reader, and a kill -9, may come at any time."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(value))
    scratch.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def state_of(folder: Path) -> dict[str, Any]:
    """What was started there, and how it ended; "running" is decided here and nowhere else."""
    state = read_json(folder / "state.json")
    if not state:
        return {}
    same_boot = state.get("boot_id") == boot_id()
    end = read_json(folder / "exit.json")
    alive = not end and same_boot and is_same(state["pid"], state["pid_started"])
    return {**state, **end, "running": alive}


def known(arguments: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    folder = arguments.dir / arguments.name
    state = state_of(folder)
    if not state:
        raise Refused(f"{arguments.name}: nothing of that name was started in {arguments.dir}")
    return folder, state


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[IO[str]]:
    """One start, stop or remove at a time; the kernel drops the lock with its holder, even after kill -9."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(lock_of(folder), "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def lock_of(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


def now() -> str:
    """As in `docker logs --timestamps`: RFC 3339, UTC, nanoseconds."""
    return rfc3339(time.time_ns())


def rfc3339(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


# start


def start(arguments: argparse.Namespace) -> None:
    folder = arguments.dir / arguments.name
    with locked(folder) as lock:
        if state_of(folder).get("running"):
            raise Refused(f"{arguments.name} is running")
        if members(folder):
            raise Refused(f"processes of an earlier {arguments.name} are still there; stop it first")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        launch(folder, dict(arguments.label), arguments.command, lock)


def launch(folder: Path, labels: dict[str, str], command: list[str], lock: IO[str]) -> None:
    """Fork a supervisor and wait until it has started the command, or has said why it cannot."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        lock.close()  # or it would be held for as long as the supervisor lives
        with contextlib.suppress(BaseException):
            supervise(folder, labels, command, writer)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        problem = answer.read()
    if problem:
        shutil.rmtree(folder, ignore_errors=True)
        raise Refused(problem)


def supervise(folder: Path, labels: dict[str, str], command: list[str], answer: int) -> None:
    detach()
    adopt_orphans()
    kills_before = out_of_memory_kills()
    try:
        child = spawn(folder, command)
    except OSError as error:
        os.write(answer, f"{command[0]}: {error.strerror}".encode())
        return
    state = {
        "name": folder.name,
        "labels": labels,
        "command": command,
        "pid": child.pid,
        "pid_started": started_ticks(child.pid) or -1,  # -1, which no process has: it has ended already
        "supervisor": os.getpid(),
        "supervisor_started": started_ticks(os.getpid()),
        "boot_id": boot_id(),
        "started_at": now(),
    }
    write_json(folder / "state.json", state)
    os.close(answer)
    assert child.stdout is not None
    copying = threading.Thread(target=copy_output, args=(child.stdout, folder / "log"), daemon=True)
    copying.start()
    code = wait_and_reap(child.pid)
    kill_all(folder)  # as in a container, where all end with the first; and they hold the pipe open
    copying.join(LAST_OUTPUT_S)
    write_json(folder / "exit.json", ending(code, out_of_memory_kills() > kills_before))


def detach() -> None:
    """Out of the connection's session and off its pipes: sshd waits for whoever holds them."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


def adopt_orphans() -> None:
    """What a container's first process does too: whoever loses its parent becomes a child of this one."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def wait_and_reap(child: int) -> int:
    """Wait for the process, and for the orphans that end before it; its exit code, or minus the signal."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def spawn(folder: Path, command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, MARK: str(folder), KEEP_ENVIRONMENT: "1"},
        start_new_session=True,
    )


def copy_output(pipe: IO[bytes], path: Path) -> None:
    """Put the time before every line, as it comes."""
    with open(path, "ab", buffering=0) as log:
        for line in pipe:
            # A full disk must not stop the process, which it would if nobody emptied the pipe.
            with contextlib.suppress(OSError):
                log.write(b"%s %s\n" % (now().encode(), line.rstrip(b"\r\n")))


def ending(code: int, kernel_killed: bool) -> dict[str, Any]:
    """Exit codes as shells and containers count them: 128 + the signal's number."""
    return {
        "exit_code": code if code >= 0 else 128 - code,
        "signal": signal.Signals(-code).name if code < 0 else "",
        "oom_killed": kernel_killed and code == -signal.SIGKILL,
        "finished_at": now(),
    }


# inspect


def inspect(arguments: argparse.Namespace) -> None:
    folders = sorted(path.parent for path in arguments.dir.glob("*/state.json"))
    print(json.dumps([public(state) for state in map(state_of, folders) if state]))


def public(state: dict[str, Any]) -> dict[str, Any]:
    """What `inspect` shows. If the supervisor was killed, nobody knows how the process ended: null."""
    return {
        "name": state["name"],
        "labels": state["labels"],
        "running": state["running"],
        "pid": state["pid"],
        "exit_code": state.get("exit_code"),
        "signal": state.get("signal", ""),
        "oom_killed": state.get("oom_killed", False),
        "started_at": state["started_at"],
        "finished_at": state.get("finished_at", ""),
    }


# logs


def logs(arguments: argparse.Namespace) -> None:
    folder, _ = known(arguments)
    since = since_stamp(arguments.since, time.time_ns())
    out = sys.stdout.buffer
    with open_log(folder) as log:
        # The stamps have one form and one length, so that they sort as text.
        lines = (line for line in log if line >= since)
        kept = lines if arguments.tail < 0 else collections.deque(lines, maxlen=arguments.tail)
        out.writelines(kept)
        out.flush()
        if arguments.follow:
            out.writelines(line for line in new_lines(log, folder, out) if line >= since)
    out.flush()


def open_log(folder: Path) -> IO[bytes]:
    path = folder / "log"
    return open(path if path.exists() else os.devnull, "rb")


def new_lines(log: IO[bytes], folder: Path, out: IO[bytes]) -> Iterator[bytes]:
    """Lines as they come, until the process has ended and all that it said is read."""
    rest = b""
    while True:
        # Asked before reading, so that what was written until then is read now.
        over = not state_of(folder).get("running") and not supervised(folder)
        chunk = log.read()
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line + b"\n" for line in lines)
        out.flush()
        if over:
            return
        if not chunk:
            time.sleep(POLL_S)


def since_stamp(text: str, now_ns: int) -> bytes:
    """The first stamp to show: `text` is a number of seconds ago, a time, or empty for everything."""
    if not text:
        return b""
    if re.fullmatch(r"\d+(\.\d+)?s?", text):
        return rfc3339(now_ns - int(float(text.rstrip("s")) * 1e9)).encode()
    match = TIME.fullmatch(text)
    if match is None:
        raise Refused(f"--since: expected seconds or a time like {rfc3339(now_ns)}, got {text!r}")
    second, fraction, zone = match.groups()
    moment = datetime.datetime.fromisoformat(second.upper() + zone.upper().replace("Z", "+00:00"))
    return rfc3339(int(moment.timestamp()) * 1_000_000_000 + int((fraction or "").ljust(9, "0"))).encode()


# exec


def execute(arguments: argparse.Namespace) -> None:
    """Become the command, in the environment and working directory of the process."""
    folder, state = known(arguments)
    environment = environment_of(state["pid"]) if state["running"] else {}
    if not environment:
        raise Refused(f"{arguments.name} is not running")
    with contextlib.suppress(OSError):
        os.chdir(f"/proc/{state['pid']}/cwd")
    try:
        os.execvpe(arguments.command[0], arguments.command, {**environment, MARK: str(folder)})
    except OSError as error:
        raise Refused(f"{arguments.command[0]}: {error.strerror}") from None


# stop and remove


def stop(arguments: argparse.Namespace) -> None:
    """SIGTERM to the process, as a container engine does it; when it has ended, or has not in time, SIGKILL
    to all.
    """
    folder, state = known(arguments)
    with locked(folder):
        segments = shared_memory(members(folder))
        if state["running"]:
            signal_process(state, signal.SIGTERM)
            wait_until(lambda: not is_same(state["pid"], state["pid_started"]), arguments.timeout)
        left = kill_all(folder)
        if left:
            raise Refused(f"{arguments.name}: SIGKILL does not end {', '.join(map(str, sorted(left)))}")
        wait_until(lambda: not supervised(folder), LAST_OUTPUT_S + 1)  # it writes down the exit code
        unlink_unused(segments)


def signal_process(state: dict[str, Any], number: int) -> None:
    if is_same(state["pid"], state["pid_started"]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(state["pid"], number)


def supervised(folder: Path) -> bool:
    """Whether the supervisor lives; it ends when it has written how the process ended."""
    state = read_json(folder / "state.json")
    return bool(state) and is_same(state["supervisor"], state["supervisor_started"])


def kill_all(folder: Path) -> set[int]:
    """SIGKILL until none is left, for the dying may still have children; returns who would not go."""

    def none_left() -> bool:
        left = members(folder)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    return set() if wait_until(none_left, KILL_TIMEOUT_S) else members(folder)


def wait_until(done: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def unlink_unused(segments: set[str]) -> None:
    """vLLM's ranks, which Ray ends with SIGKILL, leave theirs behind; a container's would go with it."""
    for path in segments - (shared_memory(all_pids()) if segments else set()):
        with contextlib.suppress(OSError):
            os.unlink(path)


def remove(arguments: argparse.Namespace) -> None:
    folder = arguments.dir / arguments.name
    with locked(folder):
        if state_of(folder).get("running") or members(folder):
            raise Refused(f"{arguments.name} is running; stop it first")
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.unlink(lock_of(folder))


if __name__ == "__main__":
    main()
