"""The user's own commands around `up`, `down` and `heal`, on the operator's machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from cluster.errors import HookError

STDERR = 2
LONGEST = 600.0  # seconds: the lock is held meanwhile


def run_before(key: str, commands: tuple[str, ...], variables: Mapping[str, str]) -> None:
    """Each in turn. Raises HookError at the first that fails: nothing was changed yet."""
    for command in commands:
        if why := _failure(command, variables):
            raise HookError(key, command, why)


def run_after(key: str, commands: tuple[str, ...], variables: Mapping[str, str]) -> list[str]:
    """Each in turn, whatever the others do; what went wrong, a sentence each."""
    answers = ((command, _failure(command, variables)) for command in commands)
    return [f"hooks.{key}: `{command}` {why}" for command, why in answers if why]


def _failure(command: str, variables: Mapping[str, str]) -> str:
    """Why it failed, or nothing. What it prints goes to stderr: stdout is the command's own."""
    try:
        done = subprocess.run(
            ("sh", "-c", command),
            stdin=subprocess.DEVNULL,
            stdout=STDERR,
            env={**os.environ, **variables},
            timeout=LONGEST,
        )
    except subprocess.TimeoutExpired:
        return f"had not ended after {LONGEST:g} s and was killed"
    if done.returncode < 0:
        return f"was killed by signal {-done.returncode}"
    return f"exited {done.returncode}" if done.returncode else ""
