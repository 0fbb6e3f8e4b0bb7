"""Who says what in a line: NCCL's `host:pid:tid [device] NCCL INFO message` wherever it stands in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

# The hostname may be empty, as where people take it out of a log. Before it: nothing, blank, or the end of a
# prefix as in mpirun's `[1,0]<stdout>:`; never half another line.
SPEAKER = re.compile(
    r"(?:^|(?<=[\s|)\"'])|(?<=[\]>]:)|(?<=[\]>]))"
    r"((?:[A-Za-z0-9][\w.-]{0,254})?):(\d{1,10}):(\d{1,10}) \[(-?\d{1,4})\] "
    r"(?:[\w./+-]{1,200}:\d{1,6} (?:\([^()\s]{1,200}\) )?)?NCCL (INFO|WARN) ?"
)
# Ray: `[repeated 15x across cluster]`; rsyslog and journald: `message repeated 15 times: [...]`.
FOLDED = re.compile(r"\s*\[repeated \d+x.*$|\bmessage repeated \d+ times")
MARK = re.compile(r"NCCL (?:INFO|WARN)\b")
PARTS_OF_CHANNEL = re.compile(
    r"\bvia (?:NET|COLLNET)/|\bChannel \d+(?:/\d)?\b.{0,80}(?:->|$)|\[(?:send|receive)\]"
)


@dataclass(frozen=True, slots=True)
class Speaker:
    host: str
    pid: int
    tid: int
    device: int


Level = Literal["INFO", "WARN", "", "cut"]


@dataclass(frozen=True, slots=True)
class Said:
    """`speaker` is None for what no prefix stands before; `cut` for a piece that another line runs into."""

    speaker: Speaker | None
    level: Level
    message: str
    whole: bool
    folded: bool = False


def said(text: str, whole: bool) -> Iterator[Said]:
    """The messages in a line, in order: one, or more where writers ran into one another.

    A piece of NCCL's without a speaker has level `cut` where it may be of a channel, else ``.
    """
    text, folded = _unfolded(text)
    found = list(SPEAKER.finditer(text))
    marks = len(MARK.findall(text))
    if not found:
        yield Said(None, "cut" if PARTS_OF_CHANNEL.search(text) else "", text, whole, folded)
        return
    if marks > len(found) and PARTS_OF_CHANNEL.search(text):
        yield Said(None, "cut", text, whole, folded)
    elif PARTS_OF_CHANNEL.search(text, 0, found[0].start()):
        yield Said(None, "cut", text[: found[0].start()], whole, folded)
    for index, start in enumerate(found):
        last = index == len(found) - 1
        end = len(text) if last else found[index + 1].start()
        speaker = Speaker(start[1], int(start[2]), int(start[3]), int(start[4]))
        level: Level = "INFO" if start[5] == "INFO" else "WARN"
        yield Said(speaker, level, text[start.end() : end].rstrip(), whole if last else False, folded)


def _unfolded(text: str) -> tuple[str, bool]:
    if "repeated" not in text:
        return text, False
    shorter = FOLDED.sub("", text)
    return shorter, shorter != text
