"""Measures the network from this node to the others, which run the same. See cluster/measure.py.

Prints {"port": N, "udp_port": N} of its listener, reads from stdin one line with the peers, and prints
{"links": {peer: {"connected", "why", "mtu", "mtu_passes", "rtt_seconds", "bits_per_second"}}}; what is not
known is left out. Seconds, bytes of an IP packet, bits a second. {"error": WHY} where it cannot.

A transfer needs the turn of both nodes, so that no two disturb each other. Nobody directs: turns are asked
for in the order of node ranks, which cannot deadlock, and a node that died holds up nobody for long.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import threading
import time

from .network_listener import listen
from .network_wire import (
    ANSWER_TIMEOUT_S,
    ASK,
    BUFFER,
    CONNECT_TIMEOUT_S,
    DATA,
    FREE,
    LARGEST_PACKET,
    PING,
    REPORT,
    TOKEN_BYTES,
    YES,
    at_once,
    exactly,
    reason,
    say,
)

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes as long as all else here
    from collections.abc import Iterator
    from typing import Any

DATAGRAM_WAITS_S = (0.1, 0.2, 0.4)  # a lost one is sent again: loss is no proof of a small MTU
DRAIN_TIMEOUT_S = 2.0
PINGS = 9
LONGEST_QUEUE = 128 << 10  # bytes that wait unsent in the kernel, and have to drain when time is up
SLOW_RTT_S = 0.005
ENOUGH_TRIES, LONG_S = 3, 0.3  # what took longer than LONG_S was no busy moment
TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; unknown to the socket module
IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_MTU = 10, 2, 14  # linux/in.h
HEADERS = 28  # IPv4 and UDP


def take_part(task: dict[str, Any]) -> None:
    """Until stdin ends: sshd sends no signal when its client is gone, but closes the pipe.

    `task`: address, token, wait (for a turn), slot (of a transfer), seconds (of all), lifetime, bytes.
    """
    # The operator's line may be broken without a sign of it. From a thread, sys.exit would end that alone.
    lifetime = threading.Timer(task["lifetime"], os._exit, (1,))
    lifetime.daemon = True
    lifetime.start()
    turn = threading.Lock()
    try:
        port, udp_port = listen(task["address"], task["token"].encode(), turn, task["wait"])
    except OSError as error:
        say({"error": f"cannot listen on {task['address']}: {reason(error)}"})
        return
    say({"port": port, "udp_port": udp_port})
    if peers := sys.stdin.readline():
        threading.Thread(target=probe, args=(task, turn, json.loads(peers)), daemon=True).start()
        sys.stdin.read()
    os._exit(0)  # there is nothing to tidy up, which would take as long as the start


def probe(task: dict[str, Any], turn: threading.Lock, peers: list[list[Any]]) -> None:
    try:
        say({"links": measure(task, turn, [Peer(*values) for values in peers])})
    except OSError as error:
        say({"error": f"{task['address']}: {reason(error)}"})
        os._exit(1)


class Peer:
    """Another node, the line to its listener, and what was found."""

    def __init__(self, name: str, address: str, port: int, udp_port: int, first: bool) -> None:
        self.name, self.place, self.udp_place = name, (address, port), (address, udp_port)
        self.first = first  # whether its turn is asked for before this node's own
        self.line: socket.socket | None = None
        self.found: dict[str, Any] = {"why": "it did not answer in time"}
        self.tries = 0


def measure(task: dict[str, Any], turn: threading.Lock, peers: list[Peer]) -> dict[str, Any]:
    """All connections at once, then the transfers, one at a time. Raises OSError."""
    deadline = time.monotonic() + task["seconds"]
    mtu = min(mtu_of(task["address"]), LARGEST_PACKET)
    threads = [threading.Thread(target=reach, args=(task, peer, mtu), daemon=True) for peer in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    reached = [peer for peer in peers if peer.line]
    transfers = threading.Thread(target=take_turns, args=(task, turn, reached, deadline), daemon=True)
    transfers.start()
    transfers.join(max(0.0, deadline - time.monotonic()))  # one that hangs does not hide the others
    return {peer.name: dict(peer.found) for peer in peers}


def reach(task: dict[str, Any], peer: Peer, mtu: int) -> None:
    try:
        line = connect(task, peer.place)
    except OSError as error:
        peer.found = {"connected": False, "why": reason(error)}
        return
    try:
        greet(task, line)
    except OSError as error:
        peer.found = {"why": f"it connects, and then: {reason(error)}"}
        return
    peer.found = {"connected": True, "why": "", **full_size(task, peer.udp_place, mtu)}
    peer.line = line


def connect(task: dict[str, Any], place: tuple[str, int]) -> socket.socket:
    """From this node's own address. Raises OSError."""
    return socket.create_connection(place, CONNECT_TIMEOUT_S, (task["address"], 0))


def greet(task: dict[str, Any], line: socket.socket) -> None:
    """Show the token. Raises OSError."""
    at_once(line)
    line.sendall(task["token"].encode())
    exactly(line, 1)
    line.settimeout(ANSWER_TIMEOUT_S + task["wait"])


def mtu_of(address: str) -> int:
    """Of the interface that carries an address of this node. Raises OSError.

    Asked by way of a multicast route, because the kernel's idea of the way to a node shrinks once a packet
    was too large for it. Nothing is sent.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        udp.connect(("224.0.0.1", 9))
        return udp.getsockopt(socket.IPPROTO_IP, IP_MTU)


def full_size(task: dict[str, Any], place: tuple[str, int], mtu: int) -> dict[str, Any]:
    """Whether a packet of `mtu` bytes arrives in one piece; not known where no datagram arrives at all."""
    token = task["token"].encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((task["address"], 0))
        udp.connect(place)
        udp.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        if not arrives(udp, token, token):
            return {"mtu": mtu}
        return {"mtu": mtu, "mtu_passes": arrives(udp, token.ljust(mtu - HEADERS), token)}


def arrives(udp: socket.socket, content: bytes, token: bytes) -> bool:
    expected = token + str(len(content)).encode()
    for wait in DATAGRAM_WAITS_S:
        udp.settimeout(wait)
        try:
            udp.send(content)
            while (answer := udp.recv(2 * TOKEN_BYTES)) != expected:
                assert answer.startswith(token)  # a late answer to the smaller one
            return True
        except OSError as error:
            if error.errno == errno.EMSGSIZE:  # the kernel has learnt that the path takes less
                return False
    return False


def take_turns(task: dict[str, Any], turn: threading.Lock, peers: list[Peer], deadline: float) -> None:
    """A transfer to each peer, in the order given; one that is busy comes later again."""
    waiting = list(peers)
    while time.monotonic() < deadline and (waiting or (waiting := doubtful(peers))):
        peer = waiting.pop(0)
        try:
            if not one_turn(task, turn, peer):
                waiting.append(peer)
        except OSError as error:
            peer.line, peer.tries = None, ENOUGH_TRIES  # its listener sees the end of the line
            peer.found["why"] = f"it connects, and a transfer does not end: {reason(error)}"


def doubtful(peers: list[Peer]) -> list[Peer]:
    """Those far below the others, who get a second and third chance: a busy moment is no slow link."""
    rates = sorted(peer.found.get("bits_per_second", 0.0) for peer in peers)
    usual = rates[len(rates) // 2] if rates else 0.0
    return [
        peer
        for peer in peers
        if peer.tries < ENOUGH_TRIES
        and (peer.found["bits_per_second"] < usual / 2 or peer.found["rtt_seconds"] > SLOW_RTT_S)
    ]


def one_turn(task: dict[str, Any], turn: threading.Lock, peer: Peer) -> bool:
    """False: one of the two nodes is busy with another. Raises OSError."""
    if not peer.line:  # an earlier transfer has used it up
        peer.line = connect(task, peer.place)
        greet(task, peer.line)
    turns = [own_turn(turn, task["wait"]), turn_of(peer, peer.line)]
    with contextlib.ExitStack() as held:
        for one in reversed(turns) if peer.first else turns:
            if not held.enter_context(one):
                return False
        transfer(task, peer, peer.line)
    return True


@contextlib.contextmanager
def own_turn(turn: threading.Lock, wait: float) -> Iterator[bool]:
    """Yields whether it was granted."""
    granted = turn.acquire(timeout=wait)
    try:
        yield granted
    finally:
        if granted:
            turn.release()


@contextlib.contextmanager
def turn_of(peer: Peer, line: socket.socket) -> Iterator[bool]:
    """Yields whether it was granted; the end of the line gives it back too. Raises OSError."""
    line.sendall(ASK)
    granted = exactly(line, 1) == YES
    try:
        yield granted
    finally:
        if granted and peer.line:
            line.sendall(FREE)


def transfer(task: dict[str, Any], peer: Peer, line: socket.socket) -> None:
    """Uses up the line, and keeps the better of this and earlier ones. Raises OSError."""
    started = time.monotonic()
    rtt = round_trip(line)
    peer.found["rtt_seconds"] = min(rtt, peer.found.get("rtt_seconds", rtt))
    peer.line = None
    rate = bits_per_second(task, line)
    peer.found["bits_per_second"] = max(rate, peer.found.get("bits_per_second", 0.0))
    busy_moment = time.monotonic() - started < LONG_S
    peer.tries = peer.tries + 1 if busy_moment else ENOUGH_TRIES


def round_trip(line: socket.socket) -> float:
    """The median of some, in seconds."""
    times = []
    for _ in range(PINGS):
        started = time.monotonic()
        line.sendall(PING)
        exactly(line, 1)
        times.append(time.monotonic() - started)
    return sorted(times)[PINGS // 2]


def bits_per_second(task: dict[str, Any], line: socket.socket) -> float:
    """As the receiver saw it; the end of what is sent is the end of the transfer."""
    with line:
        line.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, LONGEST_QUEUE)
        line.sendall(DATA)
        sent, end = 0, time.monotonic() + task["slot"]
        while sent < task["bytes"] and time.monotonic() < end:
            sent += line.send(BUFFER)
        line.shutdown(socket.SHUT_WR)
        line.settimeout(DRAIN_TIMEOUT_S)
        seconds, received = REPORT.unpack(exactly(line, REPORT.size))
    return float(received * 8 / seconds) if seconds else 0.0
