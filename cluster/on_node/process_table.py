"""What the kernel says about processes: who lives, since when, below whom, with what environment. For Linux.

A pid alone is never trusted: it counts only with the start time that the kernel gave the process, so a pid
that was used again is never taken for ours.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

# In the environment of whatever belongs to the process whose folder this names.
MARK = "CLUSTERCTL_PROCESS"
POLL_S = 0.02  # there is no event for "they, who are not our children, are gone", nor for "a file grew"


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


def all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


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


def family(mark: str, above: set[int]) -> set[int]:
    """The living processes with this mark or below one of `above`, and their descendants; not this one."""
    parents = {}
    for pid in all_pids():
        fields = stat_fields(pid)
        if fields and fields[0] not in ("Z", "X"):
            parents[pid] = int(fields[1])
    found: set[int] = set()
    more = {pid for pid, parent in parents.items() if parent in above or is_marked(pid, mark)}
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


def unlink_unused(segments: set[str]) -> None:
    """vLLM's ranks, which Ray ends with SIGKILL, leave theirs behind; a container's would go with it."""
    for path in segments - (shared_memory(all_pids()) if segments else set()):
        with contextlib.suppress(OSError):
            os.unlink(path)


def out_of_memory_kills() -> int:
    """How often the kernel has killed for want of memory since boot, in any cgroup."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def wait_until(done: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True
