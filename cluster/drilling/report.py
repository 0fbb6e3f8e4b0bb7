"""What a drill showed, for people and for programs. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cluster.drilling.breaking import Break
from cluster.drilling.requests import Tally
from cluster.errors import count

LONGEST_REASONS = 3


@dataclass(frozen=True)
class Drill:
    """`noticed` is in seconds from the break until the watcher called it not serving, None: it never did.

    `found` is what it called it, `healed` why healing failed, empty: it did not, or none was needed.
    """

    broken: Break
    requests: Tally
    noticed: float | None
    found: str
    healed: str = ""

    @property
    def serves(self) -> bool:
        """Whether requests are answered at the end."""
        return self.requests.lost == 0 or self.requests.again is not None


def lines(drill: Drill) -> tuple[str, ...]:
    """A few sentences."""
    tally = drill.requests
    return (
        f"{drill.broken.kill} of {drill.broken.node}: {drill.broken.what}",
        _noticed(drill),
        _again(drill),
        f"{count(tally.sent, 'request')}: {tally.answered} answered, {tally.lost} lost, "
        f"{tally.in_flight} of these under way when it broke",
        *(f"  lost: {why}" for why in tally.why[:LONGEST_REASONS]),
    )


def drill_json(drill: Drill) -> dict[str, Any]:
    """Seconds are counted from the break."""
    tally = asdict(drill.requests)
    again, first = tally.pop("again"), tally.pop("first_lost")
    return {
        "event": "drill",
        "kill": drill.broken.kill,
        "node": drill.broken.node,
        "what": drill.broken.what,
        "seconds_to_first_loss": _rounded(first),
        "seconds_to_detect": _rounded(drill.noticed),
        "found": drill.found,
        "seconds_to_serve_again": _rounded(again),
        "serves": drill.serves,
        "healing": drill.healed,
        "requests": {**tally, "why": list(tally["why"])},
    }


def _noticed(drill: Drill) -> str:
    if drill.noticed is None:
        return "noticed: never, it served all the time"
    return f"noticed after {drill.noticed:.1f} s: {drill.found}"


def _again(drill: Drill) -> str:
    if drill.requests.again is not None:
        return f"served again after {drill.requests.again:.1f} s"
    if drill.serves:
        return "served again: it never stopped, no request was lost"
    return f"does not serve again: {drill.healed or 'no request is answered'}"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
