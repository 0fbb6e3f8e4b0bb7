"""One process in its folder D/N: state.json (what was started), exit.json (how it ended), its lock, and which
living processes belong to it.

They are found by descent from its supervisor and, should that have been killed, by a variable in their
environment, CLUSTERCTL_PROCESS=D/N, because Ray starts children in sessions and process groups of their own.
Nobody else's Ray is ever touched, which `ray stop` cannot promise.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .process_table import boot_id, family, is_same, wait_until

KILL_TIMEOUT_S = 10.0


class Refused(Exception):
    """What was asked cannot be done; one line for a person."""


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


def supervised(folder: Path) -> bool:
    """Whether the supervisor lives; it ends when it has written how the process ended."""
    return bool(supervisor_of(folder))


def supervisor_of(folder: Path) -> set[int]:
    """The supervisor's pid while it lives."""
    state = read_json(folder / "state.json")
    return (
        {state["supervisor"]}
        if state and is_same(state["supervisor"], state["supervisor_started"])
        else set()
    )


def members(folder: Path) -> set[int]:
    """The living processes of this folder: with its mark, or below its supervisor; and their descendants."""
    return family(str(folder), supervisor_of(folder))


def kill_all(folder: Path) -> set[int]:
    """SIGKILL until none is left, for the dying may still have children; returns who would not go."""

    def none_left() -> bool:
        left = members(folder)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    return set() if wait_until(none_left, KILL_TIMEOUT_S) else members(folder)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[IO[str]]:
    """One start, stop or remove at a time; the kernel drops the lock with its holder, even after kill -9."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(lock_of(folder), "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def lock_of(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"
