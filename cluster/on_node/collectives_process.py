"""A rank as the one that started it sees it: what it says, how it ends, what it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

STARTING, JOINING, MEETING = "starting", "joining the others", "making the communicator"
GRACE_S = 3.0  # to end, once it has to; and for the other ranks, to say what they have to say of it
LAST_WORDS = 2000
SHARED_MEMORY = re.compile(r"(/dev/shm/nccl-\w+)")


class Rank:
    """A process of collectives_rank.py: what it has said, and what it is doing since when."""

    def __init__(self, number: int, process: subprocess.Popen[bytes], errors: Path) -> None:
        self.number, self.process, self.errors = number, process, errors
        self.stage, self.since, self.state = STARTING, time.monotonic(), ""
        self.steps = 0
        self.error, self.kernel_state = "", ""
        self.missing: list[int] = []
        self.said: list[dict[str, Any]] = []
        self._rest = b""
        self._segments: set[str] = set()

    def hear(self, content: bytes) -> None:
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in lines:
            said = json.loads(line)
            self.stage, self.since = said.get("stage", self.stage), time.monotonic()
            self.steps += "stage" in said
            self.error = said.get("error", self.error)
            self.missing = said.get("missing", self.missing)
            self.state = said.get("state", self.state)
            self.said.append(said)

    def ended(self) -> None:
        """Its pipe has closed: it is gone, or will be at once."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_S)
        self.since = time.monotonic()
        if self.state:
            return
        said = self.errors.read_text(errors="replace")[-LAST_WORDS:].strip()
        self.state, self.error = "died", f"{how_it_ended(self.process.returncode)}\n{said}".strip()

    def hung(self) -> None:
        self.state = "hung"
        with contextlib.suppress(OSError, IndexError):
            content = Path(f"/proc/{self.process.pid}/stat").read_text()
            self.kernel_state = content.rpartition(")")[2].split()[0]

    def kill(self) -> None:
        """It, and what it may have started. Where it was waited for, its number may be another's by now."""
        if self.process.returncode is not None:
            return
        with contextlib.suppress(OSError):
            self._segments.update(SHARED_MEMORY.findall(Path(f"/proc/{self.process.pid}/maps").read_text()))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def bury(self, deadline: float) -> None:
        """Wait until then for its end, which a rank that is held in the kernel (state D) does not come to.

        NCCL's shared memory outlives a process that is killed, so it is taken away here.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, deadline - time.monotonic()))
        for segment in self._segments:
            with contextlib.suppress(OSError):
                os.unlink(segment)

    @property
    def report(self) -> dict[str, Any]:
        named = {name: getattr(self, name) for name in ("state", "stage", "steps", "error", "missing")}
        return {"rank": self.number, **named, "process": self.kernel_state}


def how_it_ended(code: int | None) -> str:
    if code is None:
        return f"it says nothing any more, and has not ended within {GRACE_S:g} s"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def end(ranks: list[Rank]) -> None:
    """All of them first, then wait for all together, no longer than GRACE_S."""
    for rank in ranks:
        rank.kill()
    deadline = time.monotonic() + GRACE_S
    for rank in ranks:
        rank.bury(deadline)
