"""All lines at once: open, use, close."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.connection import Connection, LocalConnection
from cluster.errors import Complaint, ConnectError, ConnectionLost, InventoryError
from cluster.inventory import Inventory, Node
from cluster.parallel import on_all
from cluster.ssh_target import target_of

if TYPE_CHECKING:
    from paramiko import SSHConfig

OpenLine = Callable[[Node], Connection]


@dataclass
class Fleet:
    """The open lines by node name, and why the others are not open."""

    connections: dict[str, Connection] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)


@contextmanager
def connect(inventory: Inventory, tolerant: bool = False) -> Iterator[Fleet]:
    """Lines to all nodes, opened at once, closed at the end whatever happens.

    Raises ConnectError with one reason per node, unless `tolerant`.
    """
    fleet = Fleet()
    with ExitStack() as stack:
        answers = on_all({node.name: node for node in inventory.nodes}, opener(inventory, stack))
        for name, answer in answers.items():
            if isinstance(answer, ConnectionLost):
                fleet.unreachable[name] = str(answer)
            else:
                fleet.connections[name] = answer
        if fleet.unreachable and not tolerant:
            raise ConnectError(fleet.unreachable, len(inventory.nodes))
        yield fleet


def opener(inventory: Inventory, stack: ExitStack) -> OpenLine:
    """How a line to a node is opened; the stack closes it, also one that came about after Ctrl-C."""
    open_line = _open_local if inventory.nodes[0].is_local else _ssh_opener(inventory, stack)

    def open_and_remember(node: Node) -> Connection:
        line = open_line(node)
        stack.callback(line.close)
        return line

    return open_and_remember


def _open_local(_: Node) -> Connection:
    return LocalConnection()


def _ssh_opener(inventory: Inventory, stack: ExitStack) -> OpenLine:
    from cluster.ssh import SSHConnection
    from cluster.ssh_open import Jumps

    jumps = Jumps()
    stack.callback(jumps.close)
    config, user = _read_ssh_config(), getpass.getuser()

    def lookup(host: str) -> Mapping[str, object]:
        return config.lookup(host)

    return lambda node: SSHConnection(target_of(inventory.ssh, node, lookup, user), jumps)


@lru_cache(maxsize=1)
def _read_ssh_config() -> SSHConfig:
    from paramiko import ConfigParseError, SSHConfig

    file = Path("~/.ssh/config").expanduser()
    if not file.exists():
        return SSHConfig()
    try:
        return SSHConfig.from_path(str(file))
    except (ConfigParseError, OSError) as error:
        raise InventoryError(str(file), [Complaint(None, "", str(error))]) from error
