"""Log lines with their times, from whatever stamped them. Pure."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

STAMPED = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?)(?:Z|\+00:00) ?(.*)$", re.DOTALL)
SINCE = re.compile(r"^\d+[smhd]$|^\d{4}-\d\d-\d\d(T[\d:.]+Z?)?$")


@dataclass(frozen=True, order=True)
class LogLine:
    """`time` is UTC in ISO 8601 with nine decimals, so that text order is time order."""

    time: str
    node: str
    role: str
    text: str


def read_lines(node: str, role: str, lines: Iterable[str]) -> Iterator[LogLine]:
    """Lines of `logs --timestamps`; a line without a stamp takes the time of the one before it."""
    time = ""
    for line in lines:
        stamped = STAMPED.match(line)
        if stamped:
            time = with_nine_decimals(stamped[1])
        yield LogLine(time, node, role, stamped[2] if stamped else line)


def with_nine_decimals(time: str) -> str:
    """`...:05.12` -> `...:05.120000000`."""
    whole, _, fraction = time.partition(".")
    return f"{whole}.{fraction[:9]:0<9}"


def merge(streams: Iterable[Iterable[LogLine]]) -> Iterator[LogLine]:
    """All streams in time order; the lines of one stream keep theirs."""
    return heapq.merge(*streams, key=lambda line: line.time)
