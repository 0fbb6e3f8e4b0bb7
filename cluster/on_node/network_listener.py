"""Serves what network_probe.py measures, by TCP and UDP on random high ports. See cluster/measure.py.

The node has one turn: who holds it may transfer.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import socket
import threading
import time

from .network_wire import (
    ANSWER_TIMEOUT_S,
    ASK,
    BUFFER,
    CONNECT_TIMEOUT_S,
    DATA,
    FREE,
    LARGEST_PACKET,
    NO,
    PING,
    REPORT,
    TOKEN_BYTES,
    YES,
    at_once,
    exactly,
)

LOWEST_PORT, HIGHEST_PORT = 20000, 60999


def listen(address: str, token: bytes, turn: threading.Lock, wait: float) -> tuple[int, int]:
    """The TCP and the UDP port, served from now on. Raises OSError.

    Who asks for the turn is kept waiting up to `wait` seconds.
    """
    tcp, udp = bind(socket.SOCK_STREAM, address), bind(socket.SOCK_DGRAM, address)
    tcp.listen(1024)
    threading.Thread(target=accept, args=(tcp, token, turn, wait), daemon=True).start()
    threading.Thread(target=answer_datagrams, args=(udp, token), daemon=True).start()
    return tcp.getsockname()[1], udp.getsockname()[1]


def bind(kind: socket.SocketKind, address: str) -> socket.socket:
    """A socket on a random high port that is free. Raises OSError."""
    bound = socket.socket(socket.AF_INET, kind)
    for _ in range(100):
        port = LOWEST_PORT + int.from_bytes(os.urandom(4), "big") % (HIGHEST_PORT - LOWEST_PORT + 1)
        with contextlib.suppress(OSError):
            bound.bind((address, port))
            return bound
    bound.bind((address, 0))  # raises what was wrong with the others
    return bound


def accept(listening: socket.socket, token: bytes, turn: threading.Lock, wait: float) -> None:
    while True:
        visit = Visit(listening.accept()[0], turn, wait)
        _thread.start_new_thread(visit.serve, (token,))  # unlike threading's, not waited for until it runs


def answer_datagrams(udp: socket.socket, token: bytes) -> None:
    """The token and the length of what came, for datagrams that begin with the token."""
    while True:
        with contextlib.suppress(OSError):  # an ICMP error that an earlier answer caused
            content, sender = udp.recvfrom(LARGEST_PACKET)
            if content.startswith(token):
                udp.sendto(token + str(len(content)).encode(), sender)


class Visit:
    """One connection, to its end."""

    def __init__(self, line: socket.socket, turn: threading.Lock, wait: float) -> None:
        self.line, self.turn, self.wait = line, turn, wait
        self.holds = False

    def serve(self, token: bytes) -> None:
        try:
            self.line.settimeout(CONNECT_TIMEOUT_S)
            at_once(self.line)
            if exactly(self.line, TOKEN_BYTES) == token:
                self.line.sendall(YES)
                while True:
                    self.obey()
        except OSError:
            pass
        finally:
            self.free()
            self.line.close()

    def obey(self) -> None:
        """The next command. Raises OSError."""
        # A node that dies while it holds the turn sends no word.
        self.line.settimeout(ANSWER_TIMEOUT_S if self.holds else None)
        command = exactly(self.line, 1)
        if command == PING:
            self.line.sendall(PING)
        elif command == DATA:
            receive(self.line)
        elif command == ASK:
            self.holds = self.turn.acquire(timeout=self.wait)
            self.line.sendall(YES if self.holds else NO)
        elif command == FREE:
            self.free()

    def free(self) -> None:
        if self.holds:
            self.holds = False
            self.turn.release()


def receive(line: socket.socket) -> None:
    """Read to the end; answer how many bytes came how long after the first ones.

    MSG_TRUNC: the kernel counts them and drops them (tcp(7)), because memory is not what is measured.
    """
    line.settimeout(ANSWER_TIMEOUT_S)
    first = line.recv_into(BUFFER, 0, socket.MSG_TRUNC)
    started = last = time.monotonic()
    total = 0
    while first and (size := line.recv_into(BUFFER, 0, socket.MSG_TRUNC)):
        total += size
        last = time.monotonic()
    line.sendall(REPORT.pack(last - started, total))
