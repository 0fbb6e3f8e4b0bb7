"""Lines out of log files, with the times that whoever wrote them put there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, islice

from cluster.log_lines import LogLine, with_nine_decimals

HOW_FAR = 160
MOST_UNTIMED = 2_000
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

DAY, CLOCK = r"\d{4}-\d\d-\d\d", r"\d\d:\d\d:\d\d"
# docker logs --timestamps, journalctl -o short-iso, dmesg --time-format iso
RFC3339 = re.compile(rf"({DAY}T{CLOCK}(?:[.,]\d{{1,9}})?)(Z|[+-]\d\d:?\d\d)\s?(.*)", re.DOTALL)
# what `clusterctl logs` prints
OURS = re.compile(rf"({DAY}T{CLOCK}\.\d{{3}})\s+(\S+) (ray|serve)\s+(.*)", re.DOTALL)
# What all that follow have, and most lines lack.
ANY = re.compile(CLOCK)
# Ray's and NCCL's `2026-11-21 05:24:26,654`, the first with or without a bracket
PLAIN = re.compile(rf"({DAY})[ T]({CLOCK})(?:[.,](\d{{1,9}}))?(?!\d)")
# vLLM's `INFO 11-21 07:20:36 [`
VLLM = re.compile(rf"(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) (\d\d)-(\d\d) ({CLOCK}) ")
# glog's and torch's `[E1121 05:35:32.373430237 ProcessGroupNCCL.cpp`
GLOG = re.compile(rf"\[[DIWEFC](\d\d)(\d\d) ({CLOCK})\.(\d{{1,9}})")
# dmesg -T's `[Sat Nov 21 05:24:26 2026]`
DMESG = re.compile(rf"\[\w{{3}} (\w{{3}}) +(\d{{1,2}}) ({CLOCK}) (\d{{4}})\]")
# syslog's `Nov 21 05:24:26 gpu-02 kernel: `
SYSLOG = re.compile(rf"(\w{{3}}) +(\d{{1,2}}) ({CLOCK}) (\S+) \S+: ")


def read_log(node: str, role: str, lines: Iterable[str], year: int) -> Iterator[LogLine]:
    """The lines of one log, each with its time or that of the line before it.

    `year` is for stamps that have none. A log that never says the time has lines without one.
    """
    read = _timed(node, role, lines, year)
    first = list(islice(read, MOST_UNTIMED))
    # What comes before the first stamp happened just before it.
    time = next((line.time for line in first if line.time), "")
    return chain((line if line.time else replace(line, time=time) for line in first), read)


def _timed(node: str, role: str, lines: Iterable[str], year: int) -> Iterator[LogLine]:
    time, stamped_outside = "", False
    for text in lines:
        outside = _outside(node, role, text)
        if outside is not None:
            time, stamped_outside = outside.time, True
            yield outside
            continue
        if not stamped_outside:
            time = _inside(text, year) or time
        yield LogLine(time, node, role, text)


def _outside(node: str, role: str, text: str) -> LogLine | None:
    """A line whose stamp was put there by whoever collected it."""
    if text[:1] == "{":
        return _from_json(node, role, text)
    if not text[:4].isdigit():
        return None
    ours = OURS.fullmatch(text)
    if ours:
        return LogLine(with_nine_decimals(ours[1]), ours[2], ours[3], ours[4])
    stamped = RFC3339.fullmatch(text)
    return LogLine(_utc(stamped[1], stamped[2]), node, role, stamped[3]) if stamped else None


def _from_json(node: str, role: str, text: str) -> LogLine | None:
    """What `clusterctl logs --json` prints, and Docker's own log files."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    said = content.get("text", content.get("log"))
    time = content.get("time")
    if not isinstance(said, str) or not isinstance(time, str):
        return None
    stamped = RFC3339.fullmatch(time if time.endswith("Z") else f"{time}Z")
    where = str(content.get("node", node)), str(content.get("role", role))
    return LogLine(_utc(stamped[1], stamped[2]) if stamped else "", *where, said.rstrip("\n"))


def _utc(time: str, zone: str) -> str:
    time = time.replace(",", ".")
    if zone in ("Z", "+00:00", "+0000"):
        return with_nine_decimals(time)
    try:
        moment = datetime.fromisoformat(f"{time[:19]}{zone}").astimezone(UTC)
    except (ValueError, OverflowError):
        return with_nine_decimals(time)
    return with_nine_decimals(f"{moment:%Y-%m-%dT%H:%M:%S}{time[19:]}")


def _inside(text: str, year: int) -> str | None:
    """The time that the program itself wrote, unless Ray brought the line from another node's clock."""
    head = text[:HOW_FAR]
    if not ANY.search(head) or ", ip=" in head:
        return None
    if plain := PLAIN.search(head):
        return with_nine_decimals(f"{plain[1]}T{plain[2]}.{plain[3] or ''}")
    if vllm := VLLM.search(head):
        return with_nine_decimals(f"{year}-{vllm[1]}-{vllm[2]}T{vllm[3]}")
    if glog := GLOG.search(head):
        return with_nine_decimals(f"{year}-{glog[1]}-{glog[2]}T{glog[3]}.{glog[4]}")
    if dmesg := DMESG.search(head):
        return _named_month(dmesg[4], dmesg[1], dmesg[2], dmesg[3])
    if syslog := SYSLOG.match(head):
        return _named_month(str(year), syslog[1], syslog[2], syslog[3])
    return None


def _named_month(year: str, month: str, day: str, clock: str) -> str | None:
    if month not in MONTHS:
        return None
    return with_nine_decimals(f"{year}-{MONTHS.index(month) + 1:02}-{int(day):02}T{clock}")
