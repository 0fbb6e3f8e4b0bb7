"""What network_listener.py and network_probe.py have in common: the pipe to the operator, and their protocol.

A connection begins with the token; whoever lacks it gets no byte. Then come commands of one byte each.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
import time

HEARTBEAT_S = 0.1
CONNECT_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 1.0
TOKEN_BYTES = 32
LARGEST_PACKET = 65535
BUFFER_BYTES = 1 << 20
ASK, FREE, PING, DATA = b"a", b"f", b"p", b"d"  # for the node's turn, give it back, echo, read to the end
YES, NO = b"y", b"n"
REPORT = struct.Struct("!dQ")  # the answer to DATA: seconds, bytes

_speaking = threading.Lock()


def say(text: str = "") -> None:
    line = text.encode() + b"\n"
    with _speaking:
        while line:
            line = line[os.write(1, line) :]


def end_with_the_pipe(lifetime: float) -> None:
    """Empty lines from now on. This process ends where nobody takes them, and after `lifetime` seconds.

    sshd sends no signal when its client is gone; it closes the pipe, which only a write finds out.
    """
    threading.Thread(target=_beat, args=(time.monotonic() + lifetime,), daemon=True).start()


def _beat(end: float) -> None:
    with contextlib.suppress(OSError):
        while time.monotonic() < end:
            time.sleep(HEARTBEAT_S)
            say()
    os._exit(1)  # from a thread, sys.exit would end that thread alone


def reason(error: OSError) -> str:
    """`timed out`, `connection refused`, `no route to host`."""
    if isinstance(error, socket.timeout) or error.errno == errno.ETIMEDOUT:  # not one class before 3.10
        return "timed out"
    return (error.strerror or str(error) or type(error).__name__).lower()


def own_place(port: int) -> str:
    """The name of the listener's second socket, for the probe of its own node: firewalls know nothing of it.

    Abstract, as the zero says: no file, one namespace with the network's.
    """
    return f"\0clusterctl-network-{port}"


def at_once(line: socket.socket) -> None:
    """Small messages do not wait for each other. Raises OSError."""
    if line.family == socket.AF_INET:
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
