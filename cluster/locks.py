"""The locks of an inventory's nodes, asked over open lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from cluster import records
from cluster.connection import Connection
from cluster.errors import ConnectionLost
from cluster.inventory import Inventory
from cluster.lock.commands import Fence
from cluster.lock.state import Answer, parse_answer
from cluster.on_node import program
from cluster.parallel import on_all
from cluster.steps import Argv

SHOW_TIMEOUT = 5.0  # seconds


def fences(inventory: Inventory, names: Iterable[str]) -> dict[str, Fence]:
    """What stands at the door of each of these nodes."""
    script = program("fence.sh")
    return {name: Fence(records.folder(inventory.cluster, name), script) for name in names}


def ask(line: Connection, words: Argv, timeout: float, stdin: str = "") -> Answer:
    """Raises ConnectionLost where a node gave no answer, with what it said instead."""
    result = line.run(words, stdin, timeout)
    answer = parse_answer(result.stdout)
    if answer is None:
        raise ConnectionLost(f"it cannot hold a lock: {result.reason}")
    return answer


def shown(
    inventory: Inventory,
    connections: Mapping[str, Connection],
    heard: Callable[[str, Answer], None] = lambda _, __: None,
) -> tuple[dict[str, Answer], dict[str, str]]:
    """({node: its lock}, {node: why it does not say}), in the order of the lines; changes nothing.

    `heard` is told of each at the moment it came, by a thread of its own.
    """
    doors = fences(inventory, connections)

    def show(name: str) -> Answer:
        answer = ask(connections[name], doors[name].show(), SHOW_TIMEOUT)
        heard(name, answer)
        return answer

    answers = on_all({name: name for name in doors}, show)
    silent = {name: str(answer) for name, answer in answers.items() if isinstance(answer, ConnectionLost)}
    return {name: answer for name, answer in answers.items() if isinstance(answer, Answer)}, silent
