"""The supervisor of one process: starts it, stamps its output, ends what it leaves behind, records its end.

It lives in a session of its own, so that the process survives the SSH connection. As in a container, all that
belongs to the process ends when the process itself ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import IO, Any

from .process_log import copy_output, now
from .process_state import Refused, kill_all, write_json
from .process_table import MARK, boot_id, out_of_memory_kills, started_ticks

# setproctitle, which Ray and vLLM call in every worker, writes the title over the environment that /proc
# shows, and with it over the mark, unless this is set:
# https://github.com/dvarrazzo/py-setproctitle#environment-variables
KEEP_ENVIRONMENT = "SPT_NOENV"
PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
LAST_OUTPUT_S = 2.0


def launch(folder: Path, labels: dict[str, str], command: list[str], workdir: Path, lock: IO[str]) -> None:
    """Fork a supervisor and wait until it has started the command, or has said why it cannot."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        lock.close()  # or it would be held for as long as the supervisor lives
        with contextlib.suppress(BaseException):
            supervise(folder, labels, command, workdir, writer)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        problem = answer.read()
    if problem:
        shutil.rmtree(folder, ignore_errors=True)
        raise Refused(problem)


def supervise(folder: Path, labels: dict[str, str], command: list[str], workdir: Path, answer: int) -> None:
    detach()
    adopt_orphans()
    kills_before = out_of_memory_kills()
    try:
        child = spawn(folder, command, workdir)
    except OSError as error:
        os.write(answer, f"{error.filename or command[0]}: {error.strerror}".encode())
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


def spawn(folder: Path, command: list[str], workdir: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=workdir,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, MARK: str(folder), KEEP_ENVIRONMENT: "1"},
        start_new_session=True,
    )


def wait_and_reap(child: int) -> int:
    """Wait for the process, and for the orphans that end before it; its exit code, or minus the signal."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def ending(code: int, kernel_killed: bool) -> dict[str, Any]:
    """Exit codes as shells and containers count them: 128 + the signal's number."""
    return {
        "exit_code": code if code >= 0 else 128 - code,
        "signal": signal.Signals(-code).name if code < 0 else "",
        "oom_killed": kernel_killed and code == -signal.SIGKILL,
        "finished_at": now(),
    }
