"""One measurement at a time on a node: who starts one ends that of an operator who is gone.

Who measures holds an abstract name, unix(7): it leaves no file, and goes with its process. A connection to it
is the wish that it ends. Abstract names belong to nobody, so both ends ask the kernel who the other is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time

TAKE_OVER_S = 10.0
POLL_S = 0.02
CREDENTIALS = struct.Struct("3i")  # ucred of unix(7): pid, uid, gid


def take_over(name: str, seconds: float = TAKE_OVER_S) -> socket.socket:
    """A socket that listens under the name, once the one before has ended.

    Raises PermissionError where another user has the name, TimeoutError where the one before does not end,
    OSError.
    """
    deadline = time.monotonic() + seconds
    while (alone := bound(name)) is None:
        if time.monotonic() >= deadline:
            raise TimeoutError(f"an earlier `verify` on this node has not ended within {seconds:g} s")
        ask_to_end(name, deadline)
    return alone


def bound(name: str) -> socket.socket | None:
    """None: it is taken. Raises OSError."""
    alone = socket.socket(socket.AF_UNIX)
    try:
        alone.bind(name)
        alone.listen()
    except OSError as error:
        alone.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return alone


def ask_to_end(name: str, deadline: float) -> None:
    """Returns when the one before has ended, or a moment later where that cannot be heard."""
    with socket.socket(socket.AF_UNIX) as other:
        other.settimeout(max(POLL_S, deadline - time.monotonic()))
        # It may be past the point where it listens, or not be there yet, and ends or begins at any moment.
        with contextlib.suppress(ConnectionError, TimeoutError):
            other.connect(name)
            pid, uid = peer(other)
            if uid != os.geteuid():
                raise PermissionError(
                    f"the user with the id {uid} already measures on this node (pid {pid}): wait for the end "
                    "of it, or take another network.verify_port"
                )
            other.recv(1)  # nothing comes; its end closes the line
    time.sleep(POLL_S)  # there is no event for "a name is free again"


def is_obeyed(alone: socket.socket) -> socket.socket | None:
    """Whoever asks us to end, where it is the same user: to be kept open until we have. None: a stranger."""
    with contextlib.suppress(OSError):  # who asked may be gone again
        asking, _ = alone.accept()
        if peer(asking)[1] == os.geteuid():
            return asking
        asking.close()
    return None


def peer(connection: socket.socket) -> tuple[int, int]:
    """(process id, user id) of the other end: of a connection's maker, or of who listens."""
    size = CREDENTIALS.size
    pid, uid, _ = CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return pid, uid
