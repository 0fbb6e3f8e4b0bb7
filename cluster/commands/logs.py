"""`clusterctl logs`: Ray's and vLLM's logs of all nodes, tagged and in time order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster import console, fleet, log_lines
from cluster.commands.choose import chosen
from cluster.connection import Connection
from cluster.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USAGE, ClusterctlError, ConnectionLost
from cluster.inventory import load
from cluster.log_lines import LogLine, merge, read_lines
from cluster.parallel import on_all
from cluster.phases import script
from cluster.plan import Member, Plan, make_plan
from cluster.steps import Argv


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
    plan = make_plan(inventory)
    members = chosen(plan, nodes)
    options = (*_since(plan, since), *(("--follow",) if follow else ()))
    found = [source for member in members for source in _sources(plan, member, options)]
    sources = {f"{source.node} {source.role}": source for source in found}
    with fleet.connect(inventory.model_copy(update={"nodes": tuple(m.node for m in members)})) as lines:
        show = _printer(as_json)
        if not follow:
            _collect(sources, lines.connections, show)
            return EXIT_DONE
        try:
            _follow(sources, lines.connections, show)
        except KeyboardInterrupt:  # how one ends it, and no error
            return EXIT_INTERRUPTED
    return EXIT_DONE


def _since(plan: Plan, text: str | None) -> Argv:
    if text is None:
        return ()
    found = log_lines.since(text)
    if found is None:
        raise SinceError(f"--since {text}: expected 90s, 10m, 2h, 1d or a moment like 2026-11-21T05:24:26Z")
    container = found.isdigit() and plan.runtime.engine != "process"
    return ("--since", f"{found}s" if container else found)


class SinceError(ClusterctlError):
    """`--since` is no time."""

    exit_code = EXIT_USAGE


def _sources(plan: Plan, member: Member, options: Argv) -> Iterator[Source]:
    if plan.uses_ray:
        yield Source(member.name, "ray", script(plan, "logs", "ray", *options))
    if member in plan.servers:
        yield Source(member.name, "serve", script(plan, "logs", "serve", *options))


def _printer(as_json: bool) -> Show:
    lock = threading.Lock()

    def show(line: LogLine) -> None:
        with lock:
            if as_json:
                console.emit(line.__dict__)
            else:
                console.say(f"{line.time[:23]:<23} {line.node} {line.role:<5} {line.text}")

    return show


def _collect(sources: Sources, connections: Connections, show: Show) -> None:
    answers = on_all(sources, lambda source: connections[source.node].run(source.argv, timeout=None).stdout)
    show_lines = merge(
        read_lines(sources[key].node, sources[key].role, str(answer).splitlines())
        for key, answer in answers.items()
    )
    for line in show_lines:
        show(line)


def _follow(sources: Sources, connections: Connections, show: Show) -> None:
    def stream(source: Source) -> None:
        def on_line(text: str) -> None:
            for line in read_lines(source.node, source.role, (text,)):
                show(line)

        connections[source.node].run(source.argv, timeout=None, on_line=on_line)

    for key, answer in on_all(sources, stream).items():
        if isinstance(answer, ConnectionLost):
            console.complain(f"{sources[key].node}: {answer}")
