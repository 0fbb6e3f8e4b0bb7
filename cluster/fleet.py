"""All lines at once: open, use, close."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from cluster.connection import Connection, LocalConnection
from cluster.errors import Complaint as _Complaint
from cluster.errors import ConnectError, ConnectionLost, InventoryError
from cluster.inventory import Inventory, Node
from cluster.ssh_target import target_of

T = TypeVar("T")


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
    with _opener(inventory) as open_line:
        answers = on_all({node.name: node for node in inventory.nodes}, open_line)
        for name, answer in answers.items():
            if isinstance(answer, ConnectionLost):
                fleet.unreachable[name] = str(answer)
            else:
                fleet.connections[name] = answer
        if fleet.unreachable and not tolerant:
            raise ConnectError(fleet.unreachable, len(inventory.nodes))
        yield fleet


@contextmanager
def _opener(inventory: Inventory) -> Iterator[Callable[[Node], Connection]]:
    """How a line is opened; whatever it opened is closed at the end, also what came too late."""
    opened: list[Connection] = []
    from cluster.ssh import SSHConnection
    from cluster.ssh_open import Jumps

    jumps = Jumps()

    def open_line(node: Node) -> Connection:
        line: Connection
        if node.is_local:
            line = LocalConnection()
        else:
            line = SSHConnection(target_of(inventory.ssh, node, ssh_config, getpass.getuser()), jumps)
        opened.append(line)
        return line

    try:
        yield open_line
    finally:
        for line in opened:
            line.close()
        jumps.close()


def on_all(items: Mapping[str, T], act: Callable[[T], Connection]) -> dict[str, Connection | ConnectionLost]:
    """`act` on every item at once; a lost line is an answer."""
    executor = ThreadPoolExecutor(max_workers=max(1, len(items)), thread_name_prefix="connect")
    try:
        futures = {name: executor.submit(act, item) for name, item in items.items()}
        wait(futures.values())
        return {name: _answer(future) for name, future in futures.items()}
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _answer(future: Future[Connection]) -> Connection | ConnectionLost:
    error = future.exception()
    if isinstance(error, ConnectionLost):
        return error
    return future.result()


def ssh_config(host: str) -> Mapping[str, object]:
    """What ~/.ssh/config says of a host."""
    return _read_ssh_config().lookup(host)  # type: ignore[no-any-return]


@lru_cache(maxsize=1)
def _read_ssh_config():  # type: ignore[no-untyped-def]
    from paramiko import SSHConfig
    from paramiko.ssh_exception import ConfigParseError

    file = Path("~/.ssh/config").expanduser()
    if not file.exists():
        return SSHConfig()
    try:
        return SSHConfig.from_path(str(file))
    except (ConfigParseError, OSError) as error:
        raise InventoryError(str(file), [_Complaint(None, "", str(error))]) from error
