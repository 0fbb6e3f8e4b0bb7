"""From blocks of bytes to the lines that speak of NCCL, in memory that does not grow with the log."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

LONGEST = 65_536
"""Bytes; NCCL's own lines have 1023 at most. Of a longer line the beginning is read."""

COLOUR = re.compile(rb"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07]{0,256}\x07|[@-Z\\-_])")
# What docker's json-file and CRI logging put behind a line.
JSON_TAIL = re.compile(rb'(?:\\r)?\\n",\s*"(?:stream|time|attrs)".{0,400}\}$')

Take = Callable[[bytes, bool], None]


def scan(blocks: Iterable[bytes], take: Take) -> None:
    """`take(line, whole)` for each line that may be NCCL's; the last is not `whole` if no newline ends it.

    Lines without NCCL cost two searches in a few dozen bytes: nothing is decoded here.
    """
    rest, skipping = b"", False
    for block in blocks:
        head, newline, tail = block.rpartition(b"\n")
        if not newline:
            rest, skipping = _capped(rest + block, skipping, take)
            continue
        lines = (rest + head).split(b"\n")
        if skipping:
            lines = lines[1:]
        for line in lines:
            if b"NCCL" in line or b" via " in line:
                take(line[:LONGEST], len(line) <= LONGEST)
        rest, skipping = _capped(tail, False, take)
    if rest and (b"NCCL" in rest or b" via " in rest):
        take(rest, False)


def _capped(rest: bytes, skipping: bool, take: Take) -> tuple[bytes, bool]:
    """What to keep of a line that has not ended: nothing where its beginning was read for its length."""
    if skipping:
        return b"", True
    if len(rest) <= LONGEST:
        return rest, False
    if b"NCCL" in rest or b" via " in rest:
        take(rest[:LONGEST], False)
    return b"", True


def cleaned(line: bytes) -> str:
    """Without colours, carriage return and what a container engine's JSON puts behind it."""
    if b"\x1b" in line:
        line = COLOUR.sub(b"", line)
    if line.endswith(b"}"):
        line = JSON_TAIL.sub(b"", line)
    return line.decode("utf-8", errors="replace").rstrip()
