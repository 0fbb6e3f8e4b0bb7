"""`clusterctl exec`: a command in the containers of all nodes at once."""

from __future__ import annotations

from pathlib import Path

from cluster import console
from cluster.argv.node_script import script
from cluster.commands.choose import reach
from cluster.errors import EXIT_DONE, EXIT_NO, ConnectionLost
from cluster.inventory import load
from cluster.parallel import on_all
from cluster.steps import Argv, Result


def execute(file: Path, argv: Argv, nodes: tuple[str, ...], as_json: bool) -> int:
    """Run argv everywhere; 0 only if it exited 0 on every node. Raises ClusterctlError."""
    inventory = load(file)
    with reach(inventory, nodes) as at:
        answers = on_all(
            {member.name: member for member in at.members},
            lambda m: at.lines.connections[m.name].run(script(m, "exec", *argv), timeout=None),
        )
    codes = [_show(name, answer, as_json) for name, answer in answers.items()]
    return EXIT_DONE if not any(codes) else EXIT_NO


def _show(name: str, answer: Result | ConnectionLost, as_json: bool) -> int:
    """Print a node's answer; its exit code, 255 for a lost line as with ssh(1)."""
    result = Result(255, "", f"{answer}\n") if isinstance(answer, ConnectionLost) else answer
    if as_json:
        streams = {"stdout": result.stdout, "stderr": result.stderr}
        console.emit({"node": name, "exit_code": result.exit_code, **streams})
        return result.exit_code
    for line in (result.stdout + result.stderr).splitlines():
        console.say(f"{name}  {line}")
    if result.exit_code != 0:
        console.complain(f"{name} exited {result.exit_code}")
    return result.exit_code
