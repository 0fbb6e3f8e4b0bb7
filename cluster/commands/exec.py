"""`clusterctl exec`: a command in the containers of all nodes at once."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from cluster import console, fleet
from cluster.commands.choose import chosen
from cluster.connection import Connection
from cluster.errors import EXIT_DONE, EXIT_NO, ConnectionLost
from cluster.inventory import load
from cluster.phases import script
from cluster.plan import make_plan
from cluster.steps import Argv, Result


def execute(file: Path, argv: Argv, nodes: tuple[str, ...], as_json: bool) -> int:
    """Run argv everywhere; 0 only if it exited 0 on every node. Raises ClusterctlError."""
    inventory = load(file)
    plan = make_plan(inventory)
    members = chosen(plan, nodes)
    with fleet.connect(inventory.model_copy(update={"nodes": tuple(m.node for m in members)})) as lines:
        results = _on_all(lines.connections, script(plan, "exec", *argv))
    for name, result in results.items():
        _show(name, result, as_json)
    return EXIT_DONE if all(result.exit_code == 0 for result in results.values()) else EXIT_NO


def _on_all(connections: Mapping[str, Connection], argv: Argv) -> dict[str, Result]:
    executor = ThreadPoolExecutor(max_workers=max(1, len(connections)), thread_name_prefix="exec")
    try:
        futures = {name: executor.submit(_run, line, argv) for name, line in connections.items()}
        wait(futures.values())
        return {name: future.result() for name, future in futures.items()}
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _run(line: Connection, argv: Argv) -> Result:
    try:
        return line.run(argv, timeout=None)
    except ConnectionLost as error:
        return Result(255, "", f"{error}\n")


def _show(name: str, result: Result, as_json: bool) -> None:
    if as_json:
        streams = {"stdout": result.stdout, "stderr": result.stderr}
        console.emit({"node": name, "exit_code": result.exit_code, **streams})
        return
    for line in (result.stdout + result.stderr).splitlines():
        console.say(f"{name}  {line}")
    if result.exit_code != 0:
        console.complain(f"{name} exited {result.exit_code}")
