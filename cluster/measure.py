"""Measures the network between the nodes, over their open lines; nothing on them is changed.

One program runs on every node. It listens; once all do, it is told of the others, and tries their listeners.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from queue import SimpleQueue
from typing import Any

from cluster.argv.network_probe import on_stdin, python_on_node
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
MEASURE_WITHIN = 6.5
END_WITHIN = 2.0
SAYS_WITHIN = 5.5
LIFETIME = 13.0
QUEUE = 0.02  # how much longer than a transfer a node waits for another's turn before it tries a third

FILES = ("network_wire.py", "network_listener.py", "network_probe.py")
IMPORTS = re.compile(r"^from (?:__future__|\.network_\w+) import (?:\([^)]*\)|.*)\n", re.MULTILINE)

Said = Mapping[str, Any]


def measure(plan: Plan, connections: Mapping[str, Connection]) -> Matrix:
    """The matrix of all ordered pairs, within 13 s; a single node has none.

    Raises nothing of its own: what could not be measured is None in the matrix and says why.
    """
    names = tuple(member.name for member in plan.members)
    if len(names) < 2:
        return Matrix(names, ())
    with _probes(plan, connections) as probes:
        _wait((probe.listens for probe in probes.values()), LISTEN_WITHIN)
        ready = {name: probe.said for name, probe in probes.items() if "port" in probe.said}
        for name in ready:
            probes[name].tell(_peers(plan, name, ready))
        _wait((probes[name].measured for name in ready), MEASURE_WITHIN)
        unknown = {name: why for name, probe in probes.items() if (why := probe.why_unknown())}
        links = {name: mapping(probe.said.get("links")) for name, probe in probes.items()}
    return make_matrix(names, links, unknown)


@contextmanager
def _probes(plan: Plan, connections: Mapping[str, Connection]) -> Iterator[dict[str, _Probe]]:
    """{node: the program under way on it}; each ends with its stdin, or after its lifetime."""
    token, container = secrets.token_hex(16), f"clusterctl-{plan.cluster}-probe-{secrets.token_hex(4)}"
    probes: dict[str, _Probe] = {}
    try:
        for member in plan.members:
            argv = python_on_node(plan, member, container)
            probes[member.name] = _Probe(
                connections.get(member.name), argv, on_stdin(_source(plan, member, token))
            )
        yield probes
    finally:
        for probe in probes.values():
            probe.dismiss()
        _wait((probe.ended for probe in probes.values()), END_WITHIN)


def _wait(events: Iterable[threading.Event], seconds: float) -> None:
    """Until all have happened, at most so long."""
    end = time.monotonic() + seconds
    for event in events:
        event.wait(max(0.0, end - time.monotonic()))


# --- what is sent to a node -----------------------------------------------------------------------


def _source(plan: Plan, member: Member, token: str) -> str:
    """The program for a node, as a text that ends in its call."""
    nodes = len(plan.members)
    task = {
        "address": member.address,
        "token": token,
        "wait": seconds_per_transfer(nodes) + QUEUE,
        "slot": seconds_per_transfer(nodes),
        "bytes": bytes_per_transfer(nodes),
        "seconds": SAYS_WITHIN,
        "lifetime": LIFETIME,
    }
    return f"from __future__ import annotations\n{_text()}\ntake_part({task!r})\n"


@lru_cache
def _text() -> str:
    """The files as one text: what one imports of another stands before it."""
    return IMPORTS.sub("", "".join(map(program, FILES)))


def _peers(plan: Plan, name: str, listening: Mapping[str, Said]) -> str:
    """A line: of each peer the arguments of network_probe.Peer. `listening`: what each said of its ports."""
    member = plan.member(name)
    peers = [_peer(member, plan.member(peer), listening[peer]) for peer in opponents(tuple(listening))[name]]
    return f"{json.dumps(peers)}\n"


def _peer(member: Member, peer: Member, said: Said) -> tuple[str, str, int, int, bool]:
    ports = whole(said.get("port")), whole(said.get("udp_port"))
    return (peer.name, peer.address, *ports, peer.node_rank < member.node_rank)


# --- the program under way on a node --------------------------------------------------------------


class _Probe:
    """Prints one JSON object when it listens, one when it has measured, and ends with its stdin."""

    def __init__(self, connection: Connection | None, argv: Argv, source: str) -> None:
        self.said: dict[str, Any] = {}
        self.listens, self.measured, self.ended = threading.Event(), threading.Event(), threading.Event()
        self._reason = "no answer in time"
        self._stdin: SimpleQueue[str] = SimpleQueue()
        self.tell(source)
        threading.Thread(target=self._run, args=(connection, argv), daemon=True).start()

    def tell(self, text: str) -> None:
        self._stdin.put(text)

    def dismiss(self) -> None:
        self._stdin.put("")

    def _run(self, connection: Connection | None, argv: Argv) -> None:
        try:
            if connection is None:
                raise ConnectionLost("there is no line to it")
            stdin = iter(self._stdin.get, "")
            self._reason = connection.run(argv, stdin, LIFETIME, self._hear).reason
        except ConnectionLost as error:
            self._reason = str(error)
        finally:
            for event in (self.ended, self.listens, self.measured):
                event.set()

    def _hear(self, line: str) -> None:
        self.said |= parse_said(line)
        if "port" in self.said:
            self.listens.set()
        if "links" in self.said:
            self.measured.set()

    def why_unknown(self) -> str:
        """Why what it and its peers saw of each other says nothing about the network; empty where it does."""
        why = text_or_none(self.said.get("error")) or self._reason
        if "links" not in self.said:
            return why
        return f"its listener ended: {why}" if self.ended.is_set() else ""
