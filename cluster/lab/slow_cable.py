"""A cable that is slow and loses frames: a program between two interfaces of the lab's switch.

    python3 slow_cable.py DEVICE DEVICE SECONDS LOSS

Every frame is handed on `SECONDS` later, and the share `LOSS` (0 to 1) of them never. netem does this in the
kernel; it is a module that kernels of virtual machines often lack (this needs packet(7) alone). It prints
`ready` and closes its stdout once frames flow. PACKET_VNET_HDR (linux/if_packet.h) keeps what the sender left
to its card, a checksum or the segmentation of up to 64 KiB: such a frame is delayed, or lost, as one.
"""

from __future__ import annotations

import os
import random
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
LONGEST_FRAME = 70_000
LONGEST_QUEUE = 10_000  # frames a direction; more are lost, as in a switch


class Direction:
    """From one interface to the other: frames in the order in which they came, with the time they are due."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source, self.target = source, target
        self.queue: deque[tuple[float, bytes]] = deque()

    def take(self, seconds: float, loss: float) -> None:
        """Everything that has come."""
        for frame in _frames(self.source):
            if len(self.queue) < LONGEST_QUEUE and random.random() >= loss:
                self.queue.append((time.monotonic() + seconds, frame))

    def hand_on(self) -> None:
        """Everything that is due."""
        while self.queue and self.queue[0][0] <= time.monotonic():
            with suppress(OSError):  # the other end is down: lost
                self.target.send(self.queue.popleft()[1])


def main(first: str, second: str, seconds: float, loss: float) -> None:
    """Until it is killed."""
    ends = _open(first), _open(second)
    directions = Direction(*ends), Direction(*reversed(ends))
    print("ready", flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    while True:
        due = [direction.queue[0][0] for direction in directions if direction.queue]
        select.select(ends, (), (), max(0.0, min(due) - time.monotonic()) if due else None)
        for direction in directions:
            direction.take(seconds, loss)
            direction.hand_on()


def _frames(source: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            yield source.recv(LONGEST_FRAME)
        except BlockingIOError:
            return
        except OSError:  # ENETDOWN, once, when the interface goes down
            continue


def _open(device: str) -> socket.socket:
    """All frames that arrive there, and none that we sent."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    for option in (PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING):
        opened.setsockopt(SOL_PACKET, option, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    opened.bind((device, ETH_P_ALL))
    opened.setblocking(False)
    return opened


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
