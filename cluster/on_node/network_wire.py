"""What network_listener.py and network_probe.py have in common: their protocol, and words for the operator.

A connection begins with the token; whoever lacks it gets no byte. Then come commands of one byte each.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct

CONNECT_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 1.0
TOKEN_BYTES = 32
LARGEST_PACKET = 65535
ASK, FREE, PING, DATA = b"a", b"f", b"p", b"d"  # for the node's turn, give it back, echo, read to the end
YES, NO = b"y", b"n"
REPORT = struct.Struct("!dQ")  # the answer to DATA: seconds, bytes
BUFFER = bytearray(256 << 10)  # what is sent, and how much is received at once


def say(content: dict[str, object]) -> None:
    """One line to the operator."""
    line = json.dumps(content).encode() + b"\n"
    while line:
        line = line[os.write(1, line) :]


def reason(error: OSError) -> str:
    """`timed out`, `connection refused`, `no route to host`."""
    if isinstance(error, socket.timeout) or error.errno == errno.ETIMEDOUT:  # not one class before 3.10
        return "timed out"
    return (error.strerror or str(error) or type(error).__name__).lower()


def at_once(line: socket.socket) -> None:
    """Small messages do not wait for each other. Raises OSError."""
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def exactly(line: socket.socket, size: int) -> bytes:
    """Raises ConnectionError where the other side ends before."""
    content = b""
    while len(content) < size:
        piece = line.recv(size - len(content))
        if not piece:
            raise ConnectionResetError(errno.ECONNRESET, "closed by the other side")
        content += piece
    return content
