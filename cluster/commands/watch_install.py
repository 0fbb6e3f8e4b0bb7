"""`clusterctl watch --install`: the head watches, by a systemd unit of its own."""

from __future__ import annotations

from pathlib import Path

from cluster import console, fleet, watch_unit
from cluster.connection import Connection
from cluster.errors import EXIT_DONE, ConnectError, ConnectionLost, PhaseError, PreflightError, Problem
from cluster.fleet import Fleet
from cluster.inventory import Inventory, load
from cluster.operation import operation
from cluster.plan import Member, make_plan
from cluster.played import played_now
from cluster.reporter import reporter
from cluster.steps import Phase
from cluster.watch_unit import Head

STATUS_TIMEOUT = 300.0
REMEDY = "Mend it and run `clusterctl watch` with the same options again."


def install(file: Path, heal: bool, as_json: bool) -> int:
    """Write the inventory and the unit on the head, and start it.

    Raises PreflightError for what the head lacks.
    """
    inventory, text = load(file), file.read_text(encoding="utf-8")
    with fleet.connect(inventory, tolerant=True) as lines:
        head, found, line = _ask_head(inventory, lines)
        problems = [*watch_unit.problems(inventory, found, head, heal)]
        if found.program:
            problems += _cannot_reach(line, head, found, text)
        if problems:
            raise PreflightError(problems)
        _carry_out(inventory, lines, watch_unit.install(found, head, text, heal), as_json)
    return _done("watching", head, as_json)


def uninstall(file: Path, as_json: bool) -> int:
    """Stop and remove the unit; nothing is no error."""
    inventory = load(file)
    with fleet.connect(inventory, tolerant=True) as lines:
        head, found, _ = _ask_head(inventory, lines)
        _carry_out(inventory, lines, watch_unit.uninstall(found, head), as_json)
    return _done("not_watching", head, as_json)


def _ask_head(inventory: Inventory, lines: Fleet) -> tuple[Member, Head, Connection]:
    head = make_plan(played_now(inventory, lines)[0]).head
    line = lines.connections.get(head.name)
    if line is None:
        raise ConnectError({head.name: lines.unreachable[head.name]}, len(inventory.nodes))
    try:
        return head, watch_unit.parse_head(line.run(watch_unit.ASK_HEAD)), line
    except ConnectionLost as error:
        raise ConnectError({head.name: str(error)}, len(inventory.nodes)) from error


def _cannot_reach(line: Connection, member: Member, head: Head, text: str) -> list[Problem]:
    try:
        answer = line.run(watch_unit.try_lines(head), stdin=text, timeout=STATUS_TIMEOUT)
    except ConnectionLost as error:
        raise PhaseError("Try the lines from the head", {member.name: str(error)}, 1, REMEDY) from error
    problem = watch_unit.lines_problem(member, answer)
    return [] if problem is None else [problem]


def _carry_out(inventory: Inventory, lines: Fleet, todo: tuple[Phase, ...], as_json: bool) -> None:
    with operation("watch", inventory, lines, majority=False) as op, reporter(as_json) as report:
        op.apply(todo, 1, report, REMEDY)


def _done(event: str, head: Member, as_json: bool) -> int:
    unit = watch_unit.name(head.cluster)
    if as_json:
        console.emit({"event": event, "node": head.name, "unit": unit})
    elif event == "watching":
        console.say(f"{head.name} watches: journalctl -f -u {unit}")
    else:
        console.say(f"{head.name} does not watch any more")
    return EXIT_DONE
