"""The log of one process: every line with the time before it, as `docker logs --timestamps` shows it."""

from __future__ import annotations

import collections
import contextlib
import datetime
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .process_state import Refused, state_of, supervised
from .process_table import POLL_S

TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?\d*([Zz]|[+-]\d\d:\d\d)")


def now() -> str:
    """As in `docker logs --timestamps`: RFC 3339, UTC, nanoseconds."""
    return rfc3339(time.time_ns())


def rfc3339(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


def copy_output(pipe: IO[bytes], path: Path) -> None:
    """Put the time before every line, as it comes."""
    with open(path, "ab", buffering=0) as log:
        for line in pipe:
            # A full disk must not stop the process, which it would if nobody emptied the pipe.
            with contextlib.suppress(OSError):
                log.write(b"%s %s\n" % (now().encode(), line.rstrip(b"\r\n")))


def show(folder: Path, since: str, tail: int, follow: bool) -> None:
    """Print the lines since then, the last `tail` of them unless it is negative, and those to come."""
    first = since_stamp(since, time.time_ns())
    out = sys.stdout.buffer
    with open_log(folder) as log:
        # The stamps have one form and one length, so that they sort as text.
        lines = (line for line in log if line >= first)
        kept = lines if tail < 0 else collections.deque(lines, maxlen=tail)
        out.writelines(kept)
        out.flush()
        if follow:
            out.writelines(line for line in new_lines(log, folder, out) if line >= first)
    out.flush()


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
