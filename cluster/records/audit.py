"""Who changed what, when, and how it ended: two lines of JSON on every node, one when it begins. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster import records
from cluster.steps import Argv

FILE = "audit.jsonl"
NO_END = "no end is recorded: it was killed, or its lines broke"


class Line(BaseModel):
    """One line of the file. `id` is the same where a command begins and ends; `at` is UTC, ISO 8601."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    event: Literal["began", "ended"]
    at: str
    who: str
    command: str
    epoch: int
    exit_code: int | None = None
    result: str = ""


@dataclass(frozen=True)
class Act:
    """What was done, as all nodes together tell it; `exit_code` and `ended` None: no end is recorded."""

    began: str
    ended: str | None
    who: str
    command: str
    epoch: int
    exit_code: int | None
    result: str
    nodes: tuple[str, ...]


def append(cluster: str, node: str, line: Line) -> Argv:
    """Adds a line. A line that a full disk cut off must not swallow the next one: each begins anew."""
    script = (
        'umask 077; mkdir -p "$1" && cd "$1" || exit 1\n'
        f'[ -z "$(tail -c 1 {FILE} 2>/dev/null)" ] || echo >> {FILE}\n'
        f"printf '%s\\n' \"$2\" >> {FILE}"
    )
    text = line.model_dump_json(exclude_none=True)
    return ("sh", "-c", script, "sh", records.folder(cluster, node), text)


def acts(texts: Mapping[str, str]) -> tuple[tuple[Act, ...], dict[str, int]]:
    """(what was done, in order of time, {node: lines that cannot be read}) of {node: the file's text}."""
    lines: dict[str, dict[str, Line]] = {}
    nodes: dict[str, list[str]] = {}
    unreadable: dict[str, int] = {}
    for node, text in texts.items():
        for raw in filter(str.strip, text.splitlines()):
            line = _line(raw)
            if line is None:
                unreadable[node] = unreadable.get(node, 0) + 1
                continue
            lines.setdefault(line.id, {}).setdefault(line.event, line)
            if node not in nodes.setdefault(line.id, []):
                nodes[line.id].append(node)
    found = (_act(said, tuple(nodes[id_])) for id_, said in lines.items())
    return tuple(sorted(found, key=lambda act: act.began)), unreadable


def _line(raw: str) -> Line | None:
    try:
        return Line.model_validate_json(raw)
    except ValidationError:
        return None


def _act(said: Mapping[str, Line], nodes: tuple[str, ...]) -> Act:
    first, last = said.get("began") or said["ended"], said.get("ended")
    return Act(
        began=first.at,
        ended=last.at if last else None,
        who=first.who,
        command=first.command,
        epoch=first.epoch,
        exit_code=last.exit_code if last else None,
        result=last.result if last else NO_END,
        nodes=nodes,
    )


def rows(found: tuple[Act, ...]) -> Iterator[tuple[str, ...]]:
    """For a table: when, who, command, epoch, exit code, result."""
    for act in found:
        code = "" if act.exit_code is None else str(act.exit_code)
        yield act.began, act.who, act.command, str(act.epoch), code, act.result
