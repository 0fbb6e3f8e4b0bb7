"""Measures the network between the nodes, over their open lines; nothing on them is changed.

A listener runs on every node, and then a probe on every node that tries the listeners of all others.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from cluster.argv import docker
from cluster.argv.network_probe import python_on_node, same_python
from cluster.connection import Connection
from cluster.errors import ConnectionLost
from cluster.facts.text import mapping, text_or_none, whole
from cluster.network import (
    Matrix,
    bytes_per_transfer,
    make_matrix,
    opponents,
    parse_said,
    seconds_per_transfer,
)
from cluster.on_node import program
from cluster.plan import Member, Plan
from cluster.steps import Argv

# Seconds; the first three together are the hard limit of a measurement. A container needs 1 or 2 to start.
LISTEN_WITHIN = 4.0
PROBE_WITHIN = 6.5
END_WITHIN = 2.0
PROBE_SAYS_WITHIN = 5.5
LIFETIME = 13.0
QUEUE = 0.02  # how much longer than a transfer a probe waits for a node's turn before it tries another node

IMPORTS = re.compile(r"^from (?:__future__|\.network_wire) import (?:\([^)]*\)|.*)\n", re.MULTILINE)

Said = Mapping[str, Any]


def measure(plan: Plan, connections: Mapping[str, Connection]) -> Matrix:
    """The matrix of all ordered pairs, within 13 s; a single node has none.

    Raises nothing of its own: what could not be measured is None in the matrix and says why.
    """
    names = tuple(member.name for member in plan.members)
    if len(names) < 2:
        return Matrix(names, ())
    token = secrets.token_hex(16)
    with _calls(plan, connections) as calls:
        listeners = {
            member.name: calls.listen(member, _listener(plan, member, token)) for member in plan.members
        }
        _wait(listeners.values(), LISTEN_WITHIN)
        ready = {name: listener.said for name, listener in listeners.items() if "port" in listener.said}
        probes = {name: calls.probe(plan.member(name), _probe(plan, name, ready, token)) for name in ready}
        _wait(probes.values(), PROBE_WITHIN)
        unknown = {name: why for name in names if (why := _why_unknown(listeners[name], probes.get(name)))}
    return make_matrix(
        names, {name: mapping(probe.said.get("links")) for name, probe in probes.items()}, unknown
    )


def _why_unknown(listener: _Call, probe: _Call | None) -> str:
    """Why what a node and its peers saw of each other says nothing about the network; empty where it does."""
    if probe is None:
        return listener.why
    if "links" not in probe.said:
        return probe.why
    return f"its listener ended: {listener.why}" if listener.ended else ""


# --- the programs ---------------------------------------------------------------------------------


def _listener(plan: Plan, member: Member, token: str) -> str:
    wait = seconds_per_transfer(len(plan.members)) + QUEUE
    return _source("network_listener.py", f"listen(*{(member.address, token, wait, LIFETIME)!r})")


def _probe(plan: Plan, name: str, listening: Mapping[str, Said], token: str) -> str:
    """`listening`: what each listener said of its ports."""
    nodes, member = len(plan.members), plan.member(name)
    task = {
        "address": member.address,
        "port": whole(listening[name].get("port")),
        "token": token,
        "wait": seconds_per_transfer(nodes) + QUEUE,
        "slot": seconds_per_transfer(nodes),
        "bytes": bytes_per_transfer(nodes),
        "seconds": PROBE_SAYS_WITHIN,
        "lifetime": LIFETIME,
        "peers": [
            _peer(member, plan.member(peer), listening[peer]) for peer in opponents(tuple(listening))[name]
        ],
    }
    return _source("network_probe.py", f"probe({task!r})")


def _peer(member: Member, peer: Member, said: Said) -> tuple[str, str, int, int, bool]:
    """The arguments of network_probe.Peer."""
    ports = whole(said.get("port")), whole(said.get("udp_port"))
    return (peer.name, peer.address, *ports, peer.node_rank < member.node_rank)


def _source(file: str, call: str) -> str:
    """One text of two files: what one imports of the other stands before it."""
    text = IMPORTS.sub("", program("network_wire.py") + program(file))
    return f"from __future__ import annotations\n{text}\n{call}\n"


# --- a program under way on a node ----------------------------------------------------------------


class _Dismissed(Exception):
    """Thrown out of Connection.run, which thereby closes the pipe that ends the program."""


class _Call:
    """Prints one JSON object, and empty lines for as long as it lives."""

    def __init__(self, connection: Connection | None, argv: Argv, source: str) -> None:
        self.said: Said = {}
        self.ended = False
        self._reason = "no answer in time"
        self._spoken, self._dismissed = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, args=(connection, argv, source), daemon=True)
        self.thread.start()

    def _run(self, connection: Connection | None, argv: Argv, source: str) -> None:
        try:
            if connection is None:
                raise ConnectionLost("there is no line to it")
            self._reason = connection.run(argv, source, LIFETIME, self._hear).reason
        except ConnectionLost as error:
            self._reason = str(error)
        except _Dismissed:
            pass
        finally:
            self.ended = True
            self._spoken.set()

    def _hear(self, line: str) -> None:
        if self._dismissed.is_set():
            raise _Dismissed
        if content := parse_said(line):
            self.said = content
            self._spoken.set()

    @property
    def why(self) -> str:
        """Why it has not said what was asked of it."""
        return text_or_none(self.said.get("error")) or self._reason

    def wait(self, seconds: float) -> None:
        self._spoken.wait(seconds)

    def dismiss(self) -> None:
        self._dismissed.set()


@dataclass
class _Calls:
    """All programs of one measurement."""

    plan: Plan
    connections: Mapping[str, Connection]

    def __post_init__(self) -> None:
        self._container = f"clusterctl-{self.plan.cluster}-probe-{secrets.token_hex(4)}"
        self._listeners: dict[str, _Call] = {}
        self._probes: list[_Call] = []

    def listen(self, member: Member, source: str) -> _Call:
        argv = python_on_node(self.plan, member, self._container)
        self._listeners[member.name] = _Call(self.connections.get(member.name), argv, source)
        return self._listeners[member.name]

    def probe(self, member: Member, source: str) -> _Call:
        """Where the listener runs, and with the same Python."""
        said = self._listeners[member.name].said
        container = self._container if said.get("container") is True else ""
        argv = same_python(self.plan, text_or_none(said.get("python")) or "python3", container)
        self._probes.append(_Call(self.connections.get(member.name), argv, source))
        return self._probes[-1]

    def end(self) -> None:
        """None is left on a node that can still be reached; on another they end by themselves."""
        calls = (*self._listeners.values(), *self._probes)
        for call in calls:
            call.dismiss()
        threads = [self._remove_container(name) for name in self._listeners if self._may_have_container(name)]
        end = time.monotonic() + END_WITHIN
        for thread in (*threads, *(call.thread for call in calls)):
            thread.join(max(0.0, end - time.monotonic()))

    def _may_have_container(self, name: str) -> bool:
        """A program in a container does not notice that the pipe is closed."""
        on_node = self._listeners[name].said.get("container") is False
        return name in self.connections and self.plan.runtime.engine != "process" and not on_node

    def _remove_container(self, name: str) -> threading.Thread:
        argv = docker.remove(self.plan.runtime.engine, (self._container,))

        def remove() -> None:
            with suppress(ConnectionLost):
                self.connections[name].run(argv, timeout=LIFETIME)

        thread = threading.Thread(target=remove, daemon=True)
        thread.start()
        return thread


@contextmanager
def _calls(plan: Plan, connections: Mapping[str, Connection]) -> Iterator[_Calls]:
    calls = _Calls(plan, connections)
    try:
        yield calls
    finally:
        calls.end()


def _wait(calls: Iterable[_Call], seconds: float) -> None:
    """Until all have spoken or ended, at most so long."""
    end = time.monotonic() + seconds
    for call in calls:
        call.wait(max(0.0, end - time.monotonic()))
