"""How often each channel was said, as masks: the first holds those said once or more, the second twice..."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

MOST = 64
"""Repeats that are counted; more communicators of the same ranks in one process are not told apart."""


def add(tally: list[int], mask: int) -> None:
    """Count each channel of `mask` (bit n is channel n) once more."""
    for at, said in enumerate(tally):
        tally[at], mask = said | mask, said & mask
        if not mask:
            return
    if mask and len(tally) < MOST:
        tally.append(mask)


def merge(tally: list[int], other: Sequence[int]) -> None:
    """Count each channel as often again as `other` has it."""
    for mask in other:
        add(tally, mask)


def single(tally: Sequence[int], copies: int) -> tuple[int, ...]:
    """How often at least, in a log that was written `copies` times: a line of n, n / copies rounded up."""
    return tuple(tally[::copies])


def lacking(wanted: Sequence[int], tally: Sequence[int]) -> int:
    """The mask of channels that were said less often than wanted."""
    lacks = 0
    for want, have in zip_longest(wanted, tally, fillvalue=0):
        lacks |= want & ~have
    return lacks
