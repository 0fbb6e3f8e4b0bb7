"""Who runs in a network namespace, and the end of all of them. Nothing is ever found by its name."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from cluster.errors import LabError

NAMESPACES = Path("/run/netns")
LONGEST = 60.0  # seconds
Inode = tuple[int, int]


def run(
    argv: Sequence[str], stdin: str | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """One short command on this machine; a failure names the command and what it said."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        raise LabError(f"`{' '.join(argv)}` did not end within {LONGEST:g} s") from None
    if check and done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise LabError(f"`{' '.join(argv)}` exited {done.returncode}: {said}")
    return done


def run_behind(argv: Sequence[str], log: Path) -> None:
    """Start a program that goes on by itself; it says `ready` on its stdout and closes it, or it failed."""
    with log.open("w") as stderr:
        begun = subprocess.run(
            ("setsid", "--fork", *argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd="/",
            text=True,
        )
    if begun.stdout.strip() != "ready":
        raise LabError(f"`{' '.join(argv)}` did not start: {log.read_text().strip()}")


def members(namespaces: Iterable[str]) -> dict[str, list[int]]:
    """{namespace: process ids}; a namespace that does not exist has none."""
    inodes = {name: _inode(NAMESPACES / name) for name in namespaces}
    found: dict[Inode, list[int]] = {inode: [] for inode in inodes.values() if inode}
    for pid in _pids():
        inode = _inode(Path(f"/proc/{pid}/ns/net"))
        if inode in found:
            found[inode].append(pid)
    return {name: found[inode] if inode else [] for name, inode in inodes.items()}


def init_pid(pids: Iterable[int]) -> int | None:
    """The one that is process 1 of a process namespace directly below ours: the host's init."""
    return next((pid for pid in pids if inner_pids(pid) == ["1"]), None)


def kill_all(namespaces: Sequence[str]) -> None:
    """SIGKILL to every member, and wait until they are gone.

    The kernel ends a process namespace with its init: also containers with a network of their own.
    A pidfd becomes readable only after that. Loops because a member may fork before it is killed.
    """
    while found := {pid for pids in members(namespaces).values() for pid in pids}:
        end(found)


def end(pids: Iterable[int]) -> None:
    """SIGKILL to each, and wait until they are gone."""
    pidfds = [pidfd for pid in pids if (pidfd := _open_pidfd(pid)) is not None]
    for pidfd in pidfds:
        _send(pidfd, signal.SIGKILL)
    for pidfd in pidfds:
        _wait(pidfd)
        os.close(pidfd)


def send(pids: Iterable[int], what: signal.Signals) -> None:
    """A signal to each that is still there."""
    for pid in pids:
        if (pidfd := _open_pidfd(pid)) is not None:
            _send(pidfd, what)
            os.close(pidfd)


def together(pids: Iterable[int], one: int) -> list[int]:
    """Those in the process namespace of `one`: a host's own without its containers', or a container's."""
    wanted = _inode(Path(f"/proc/{one}/ns/pid"))
    return [pid for pid in pids if wanted is not None and _inode(Path(f"/proc/{pid}/ns/pid")) == wanted]


def words(pid: int) -> tuple[str, ...]:
    """Its command line; none where it has ended."""
    try:
        return tuple(Path(f"/proc/{pid}/cmdline").read_text(errors="replace").rstrip("\0").split("\0"))
    except OSError:
        return ()


def control_groups(pid: int) -> str:
    """`/proc/PID/cgroup`; a container's id stands in it."""
    try:
        return Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""


def program(pid: int) -> str:
    """What the kernel calls it, without its arguments."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def inner_pids(pid: int) -> list[str]:
    """Its numbers in the process namespaces below ours, from the outermost."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return []
    line = next((line for line in status.splitlines() if line.startswith("NSpid:")), "")
    return line.split()[2:]


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _send(pidfd: int, what: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended by itself
        signal.pidfd_send_signal(pidfd, what)


def _wait(pidfd: int) -> None:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    if not poller.poll(20_000):
        raise LabError(
            "a process of the lab did not end within 20 s of SIGKILL", "`dmesg` may say what it waits for"
        )


def _pids() -> Iterable[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def _inode(path: Path) -> Inode | None:
    try:
        found = path.stat()
    except OSError:  # it ended meanwhile, or there is no such namespace
        return None
    return found.st_dev, found.st_ino
