"""What became of a steady stream of requests while something broke. Pure.

All times are seconds of one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """A completion that was asked for, from `sent` to `ended`; `lost` is why there was none, or empty."""

    sent: float
    ended: float
    lost: str = ""


@dataclass(frozen=True)
class Tally:
    """`in_flight` of those lost were under way when it broke; `why` are the reasons, the most frequent first.

    `first_lost` and `again` are seconds from the break: to the end of the first request that was lost, and to
    the first answer to a request that was sent after the last lost one. None: none.
    """

    sent: int
    answered: int
    lost: int
    in_flight: int
    first_lost: float | None
    again: float | None
    why: tuple[str, ...]


def tally(requests: Sequence[Request], broke: float) -> Tally:
    """Count them, in the order in which they were sent."""
    ordered = sorted(requests, key=lambda request: request.sent)
    lost = [request for request in ordered if request.lost and request.ended >= broke]
    reasons = [request.lost for request in lost]
    return Tally(
        sent=len(ordered),
        answered=sum(not request.lost for request in ordered),
        lost=sum(bool(request.lost) for request in ordered),
        in_flight=sum(request.sent < broke for request in lost),
        first_lost=min(request.ended for request in lost) - broke if lost else None,
        again=_again(ordered, lost, broke),
        why=tuple(sorted(dict.fromkeys(reasons), key=reasons.count, reverse=True)),
    )


def answered_since(requests: Sequence[Request], moment: float) -> int:
    """How many were sent after a moment, answered, and followed by none that was lost."""
    last = max((request.sent for request in requests if request.lost), default=moment)
    return sum(not request.lost and request.sent > max(last, moment) for request in requests)


def _again(ordered: Sequence[Request], lost: Sequence[Request], broke: float) -> float | None:
    if not lost:
        return None
    last = max(request.sent for request in lost)
    ends = [request.ended for request in ordered if not request.lost and request.sent > last]
    return min(ends) - broke if ends else None
