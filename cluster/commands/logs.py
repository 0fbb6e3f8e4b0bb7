"""`clusterctl logs`: Ray's and vLLM's logs of all nodes, tagged and in time order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from cluster import console, fleet
from cluster.commands.choose import chosen
from cluster.connection import Connection
from cluster.errors import EXIT_DONE, EXIT_INTERRUPTED, ConnectionLost
from cluster.inventory import load
from cluster.log_lines import LogLine, merge, read_lines
from cluster.phases import script
from cluster.plan import Member, Plan, make_plan
from cluster.steps import Argv

Source = tuple[Member, str, Argv]


def logs(file: Path, follow: bool, nodes: tuple[str, ...], since: str | None, as_json: bool) -> int:
    """Print the logs; with `follow`, as they come, until Ctrl-C. Raises ClusterctlError."""
    inventory = load(file)
    plan = make_plan(inventory)
    members = chosen(plan, nodes)
    options = (*(("--since", since) if since else ()), *(("--follow",) if follow else ()))
    sources = [source for member in members for source in _sources(plan, member, options)]
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


def _sources(plan: Plan, member: Member, options: Argv) -> Iterator[Source]:
    if plan.uses_ray:
        yield member, "ray", script(plan, "logs", "ray", *options)
    if member in plan.servers:
        yield member, "serve", script(plan, "logs", "serve", *options)


def _printer(as_json: bool) -> Callable[[LogLine], None]:
    lock = threading.Lock()

    def show(line: LogLine) -> None:
        with lock:
            if as_json:
                console.emit(line.__dict__)
            else:
                console.say(f"{line.time[:23]:<23} {line.node} {line.role:<5} {line.text}")

    return show


def _collect(
    sources: list[Source], connections: dict[str, Connection], show: Callable[[LogLine], None]
) -> None:
    def read(source: Source) -> list[LogLine]:
        member, role, argv = source
        try:
            text = connections[member.name].run(argv, timeout=None).stdout
        except ConnectionLost as error:
            text = str(error)
        return list(read_lines(member.name, role, text.splitlines()))

    executor = ThreadPoolExecutor(max_workers=max(1, len(sources)), thread_name_prefix="logs")
    try:
        futures = [executor.submit(read, source) for source in sources]
        wait(futures)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
    for line in merge(future.result() for future in futures):
        show(line)


def _follow(
    sources: list[Source], connections: dict[str, Connection], show: Callable[[LogLine], None]
) -> None:
    def stream(source: Source) -> None:
        member, role, argv = source

        def on_line(text: str) -> None:
            for line in read_lines(member.name, role, (text,)):
                show(line)

        try:
            connections[member.name].run(argv, timeout=None, on_line=on_line)
        except ConnectionLost as error:
            on_line(str(error))

    executor = ThreadPoolExecutor(max_workers=max(1, len(sources)), thread_name_prefix="logs")
    try:
        wait([executor.submit(stream, source) for source in sources])
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
