"""Log lines with their times, from whatever stamped them. Pure."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

STAMPED = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?)(?:Z|\+00:00) ?(.*)$", re.DOTALL)
AGO = re.compile(r"(\d{1,9})([smhd]?)")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, order=True)
class LogLine:
    """`time` is UTC in ISO 8601 with nine decimals, so that text order is time order."""

    time: str
    node: str
    role: str
    text: str


def since(text: str) -> str | None:
    """`10m` as seconds ("600"), a moment as it is; None for anything else."""
    if ago := AGO.fullmatch(text):
        return str(int(ago[1]) * SECONDS[ago[2]])
    return text if MOMENT.fullmatch(text) else None


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


ERROR = re.compile(r"(?:^|[\])] )((?:\w+\.)*[A-Z]\w*(?:Error|Exception): .*)$")
NOISE = re.compile(r"^\s*[\^~]+\s*$|^\s*File \"|^\s*$")


def excerpt(log: str, errors: int = 5, last: int = 12) -> str:
    """What a log says of a death: each different error once, in order, then the last lines.

    Tracebacks lose their frames, which a person who operates the program cannot use; `clusterctl logs`
    has them all.
    """
    lines = [line.text for line in read_lines("", "", log.splitlines())]
    named: dict[str, str] = {}
    for line in lines:
        if found := ERROR.search(line):
            named.setdefault(found[1], line)
    telling = [line for line in lines if not NOISE.match(_without_prefix(line))]
    end = telling[-last:] if not named else [line for line in telling[-last:] if not line.startswith("    ")]
    return "\n".join(dict.fromkeys([*list(named.values())[:errors], *end]))


def _without_prefix(line: str) -> str:
    """vLLM puts `(EngineCore pid=1) ERROR 11-21 07:20:36 [core.py:1510]` before each line of a traceback."""
    return re.sub(r"^(\([^)]*\) )*(ERROR|INFO|WARNING) \S+ \S+ \[[^\]]*\]", "", line)


def merge(streams: Iterable[Iterable[LogLine]]) -> Iterator[LogLine]:
    """All streams in time order; the lines of one stream keep theirs."""
    return heapq.merge(*streams, key=lambda line: line.time)
