"""`clusterctl logs`: Ray's and vLLM's logs of all nodes, tagged and in time order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster import console, evidence, fleet, log_lines, records
from cluster.argv.node_script import script
from cluster.commands.choose import reach
from cluster.connection import Connection
from cluster.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    ConnectError,
    ConnectionLost,
    UsageError,
)
from cluster.inventory import Inventory, load
from cluster.log_lines import LogLine, merge, read_lines
from cluster.parallel import on_all
from cluster.plan import Member, Plan
from cluster.steps import Argv, Result


@dataclass(frozen=True)
class Source:
    """One container's log."""

    node: str
    role: str
    argv: Argv


Sources = Mapping[str, Source]
Connections = Mapping[str, Connection]
Show = Callable[[LogLine], None]


def logs(file: Path, follow: bool, nodes: tuple[str, ...], since: str | None, as_json: bool) -> int:
    """Print the logs; with `follow`, as they come, until Ctrl-C. Raises ClusterctlError."""
    inventory = load(file)
    options = (*_since(inventory, since), *(("--follow",) if follow else ()))
    with reach(inventory, nodes, tolerant=True) as at:
        connections, lost = at.lines.connections, dict(at.lines.unreachable)
        found = [source for member in at.members for source in _sources(at.plan, member, options)]
        there = {f"{source.node} {source.role}": source for source in found if source.node in connections}
        act = _follow if follow else _collect
        try:
            lost |= act(there, connections, _printer(as_json))
        except KeyboardInterrupt:  # how one ends --follow, and no error
            return EXIT_INTERRUPTED
    for name, reason in lost.items():
        console.complain(f"{name}: {reason}")
    return ConnectError.exit_code if lost else EXIT_DONE


def kept_logs(file: Path, generation: int, nodes: tuple[str, ...], narrowed: bool, as_json: bool) -> int:
    """Print what was kept of a generation when it failed, or was healed. Raises ClusterctlError."""
    if narrowed:
        raise UsageError("--generation shows what was kept: leave out --follow and --since")
    inventory = load(file)
    wanted = tuple(node for node in inventory.nodes if not nodes or node.name in nodes)
    if not wanted:
        raise UsageError(f"--node {', '.join(nodes)}: the inventory has no such node")
    with fleet.connect(inventory.model_copy(update={"nodes": wanted}), tolerant=True) as lines:
        answers = on_all(
            {name: (name, line) for name, line in lines.connections.items()},
            lambda at: _kept(at[1].run(evidence.read(inventory.cluster, at[0], generation)), at[0]),
        )
    lost = {**lines.unreachable, **{n: str(a) for n, a in answers.items() if isinstance(a, ConnectionLost)}}
    found = {name: answer for name, answer in answers.items() if not isinstance(answer, ConnectionLost)}
    show = _printer(as_json)
    for line in merge(found.values()):
        show(line)
    for name, reason in lost.items():
        console.complain(f"{name}: {reason}")
    if not any(found.values()) and not lost:
        raise UsageError(f"nothing was kept of generation {generation}; `clusterctl history` lists them")
    return ConnectError.exit_code if lost else EXIT_DONE


def _kept(answer: Result, node: str) -> list[LogLine]:
    return list(evidence.lines(node, records.parse(answer)))


def _since(inventory: Inventory, text: str | None) -> Argv:
    if text is None:
        return ()
    found = log_lines.since(text)
    if found is None:
        raise UsageError(f"--since {text}: expected 90s, 10m, 2h, 1d or a moment like 2026-11-21T05:24:26Z")
    container = found.isdigit() and inventory.runtime.engine != "process"
    return ("--since", f"{found}s" if container else found)


def _sources(plan: Plan, member: Member, options: Argv) -> Iterator[Source]:
    if plan.uses_ray:
        yield Source(member.name, "ray", script(member, "logs", "ray", *options))
    if member in plan.servers:
        yield Source(member.name, "serve", script(member, "logs", "serve", *options))


def _printer(as_json: bool) -> Show:
    lock = threading.Lock()

    def show(line: LogLine) -> None:
        with lock:
            if as_json:
                console.emit(line.__dict__)
            else:
                console.say(f"{line.time[:23]:<23} {line.node} {line.role:<5} {line.text}")

    return show


def _collect(sources: Sources, connections: Connections, show: Show) -> dict[str, str]:
    """Print all lines in time order; {node: why} for what could not be read."""
    answers = on_all(sources, lambda source: connections[source.node].run(source.argv, timeout=None))
    for line in merge(_lines(sources[key], answer) for key, answer in answers.items()):
        show(line)
    return _lost(sources, answers)


def _lines(source: Source, answer: Result | ConnectionLost) -> Iterator[LogLine]:
    """None of a container that is not there, nor of a node that was lost."""
    if isinstance(answer, Result) and answer.exit_code == 0:
        yield from read_lines(source.node, source.role, answer.stdout.splitlines())


def _follow(sources: Sources, connections: Connections, show: Show) -> dict[str, str]:
    """Print lines as they come, until all logs end."""

    def stream(source: Source) -> Result:
        def on_line(text: str) -> None:
            for line in read_lines(source.node, source.role, (text,)):
                show(line)

        return connections[source.node].run(source.argv, timeout=None, on_line=on_line)

    return _lost(sources, on_all(sources, stream))


def _lost(sources: Sources, answers: Mapping[str, Result | ConnectionLost]) -> dict[str, str]:
    """{node: why} for lines that broke."""
    return {
        sources[key].node: str(answer)
        for key, answer in answers.items()
        if isinstance(answer, ConnectionLost)
    }
