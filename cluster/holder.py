"""Who this process is, and whether the process that holds a lock is gone from this machine."""

from __future__ import annotations

import getpass
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from cluster.lock.state import Holder

PROC = Path("/proc")


def operator() -> str:
    """user@host of this process."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a container without a name for its user
        return socket.gethostname()


def this_holder(command: str) -> Holder:
    """This process, as it stands in the locks that it takes."""
    return Holder(
        who=operator(),
        machine=machine(),
        pid=str(os.getpid()),
        started=_started(os.getpid()) or "",
        command=command,
        since=moment(),
    )


def moment() -> str:
    """Now, in UTC, as all that is kept has it: 2026-11-21T05:24:26Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def machine() -> str:
    """The boot of this machine and the namespace of its process ids; "" where there is no /proc (macOS)."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink(PROC / 'self/ns/pid')}"
    except OSError:
        return ""


def is_gone(holder: Holder) -> bool:
    """Whether it ran here and has ended; the start tells it from another process that has its id by now."""
    if not holder.machine or holder.machine != machine() or not holder.pid.isdigit():
        return False
    return _started(int(holder.pid)) != holder.started


def _started(pid: int) -> str | None:
    """Clock ticks since boot (proc_pid_stat(5), field 22); None where it has ended, also as a zombie."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
