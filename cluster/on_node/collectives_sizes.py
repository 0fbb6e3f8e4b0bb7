"""How much a rank sends, how long it takes, and with whom: nothing here needs torch."""

from __future__ import annotations

import math
from collections.abc import Iterator

KIBIBYTE, MEBIBYTE = 1 << 10, 1 << 20
# Bytes. A CPU's ranks share a few cores and a slower network.
SWEEP = {
    "nccl": (8, MEBIBYTE, 16 * MEBIBYTE, 128 * MEBIBYTE, 512 * MEBIBYTE),
    "gloo": (8, 64 * KIBIBYTE, MEBIBYTE, 8 * MEBIBYTE),
}
LATENCY_BYTES = 8
LARGEST_MESSAGE = {"nccl": 64 * MEBIBYTE, "gloo": 4 * MEBIBYTE}
SMALLEST_MESSAGE = 64 * KIBIBYTE
SECONDS, MOST = 0.25, 1000  # what a measurement aims at, and its largest number of iterations
SHARE = 4  # of the free memory; the server may be running


def needed(size: int, measured: int, seconds: float) -> float:
    """Seconds to measure a size, by those of one all-reduce of a smaller one, if time grows as the bytes do.

    One to make the connections and one to see how long it takes, then others for about SECONDS.
    """
    growth = size / measured if measured > LATENCY_BYTES else 1.0
    return 2 * seconds * growth + 2 * SECONDS


def iterations_for(seconds: float) -> int:
    """How many more, after one that took so long; none where that one is enough of a measurement."""
    return 0 if seconds >= SECONDS else int(min(MOST, max(2, SECONDS / seconds)))


def largest_message(backend: str, free: float) -> int:
    """Bytes: what is sent and what is received lie side by side, in a share of the free memory."""
    return within(SMALLEST_MESSAGE, LARGEST_MESSAGE[backend], free / SHARE / 2)


def rounds(nodes: int, node: int) -> Iterator[int | None]:
    """The peers of a node in a round-robin tournament (circle method); None: it sits this round out."""
    seats: list[int | None] = [*range(nodes), *([None] if nodes % 2 else [])]
    for _ in range(len(seats) - 1):
        yield seats[-1 - seats.index(node)]
        seats = [seats[0], seats[-1], *seats[1:-1]]


def within(smallest: int, largest: int, size: float) -> int:
    """The power of two below, between two that are powers of two; a size of the sweep stays as it is."""
    return smallest if size <= smallest else 1 << int(math.log2(min(size, largest)))


def in_words(size: int) -> str:
    """`8 B`, `16 MiB`."""
    for unit, name in ((MEBIBYTE, "MiB"), (KIBIBYTE, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} B"
