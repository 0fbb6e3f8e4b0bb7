"""What a controller may do with the leases that it has. Pure: every time is passed in.

The controller's times are seconds of its own clock, which counts while it sleeps; a node's are hundredths of
a second of that node's uptime. The two are brought together only by Clock. Why each rule is as it is, and
what would go wrong without it: PROTOCOL.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from cluster.lock.state import CENTISECOND, Answer, State


@dataclass(frozen=True)
class Clock:
    """A node's clock, as it was read: it showed `now` of boot `boot` at the latest at `received`."""

    now: int
    boot: str
    received: float

    def at(self, moment: float) -> int:
        """What it shows at least at a later moment of the controller's."""
        return self.now + int((moment - self.received) / CENTISECOND)


def next_epoch(answers: Iterable[Answer]) -> int:
    """Above every one that a node has seen."""
    return 1 + max((answer.state.epoch for answer in answers if answer.state), default=0)


def more_than_half(total: int) -> int:
    """How many are more than half."""
    return total // 2 + 1


def grace(former: Mapping[str, Answer], total: int, ttl: float) -> float:
    """Seconds to wait before the first command; `former` is what each acquired node had said before.

    0 where all of the `total` nodes were acquired. Otherwise a former holder may still be live on one that
    could not be reached: it renews there until `ttl` after a majority heard it last, so that what was live
    there ends at the latest one ttl after it could end here. None is where more than half say of the same
    holder that it ended in order.
    """
    if len(former) >= total:
        return 0.0
    over = Counter(
        (state.epoch, state.token)
        for answer in former.values()
        if (state := answer.state) and state.released and state.settled
    )
    if over and max(over.values()) >= more_than_half(total):
        return 0.0
    return max((_remaining(answer, ttl) for answer in former.values()), default=0.0)


def _remaining(answer: Answer, ttl: float) -> float:
    state = answer.state
    if state is None:
        return 0.0
    longest = max(state.ttl, ttl)
    if state.boot != answer.boot:
        return 2 * longest  # it was cut short by the reboot, and by how much nobody knows
    return max(0.0, (state.expires - answer.now) * CENTISECOND + longest)


@dataclass
class Tenure:
    """The leases of one holder, as it knows of them.

    `quorum` nodes have to have heard it within the last `ttl`; `needed` is how many.
    """

    epoch: int
    token: str
    ttl: float
    quorum: int
    clocks: dict[str, Clock] = field(default_factory=dict)
    heard: dict[str, float] = field(default_factory=dict)  # when what a node acknowledged last was sent

    def read(self, node: str, clock: Clock) -> None:
        """A node's clock, as its latest answer showed it."""
        self.clocks[node] = clock

    def expires(self, node: str, sent: float) -> int:
        """Until when a message that is sent now asks the node to hold the lease, in the node's time.

        Never a duration: a message that was under way for long would make the lease longer.
        """
        return self.clocks[node].at(sent + self.ttl)

    def acknowledged(self, node: str, sent: float) -> None:
        """A node granted or renewed what was sent at that moment."""
        self.heard[node] = max(sent, self.heard.get(node, sent))

    def dropped(self, node: str) -> None:
        """A node on which the lease is not live any more."""
        self.heard.pop(node, None)

    @property
    def since(self) -> float | None:
        """The latest moment of which as many nodes as are needed have heard; None: never."""
        latest = sorted(self.heard.values(), reverse=True)
        return latest[self.quorum - 1] if len(latest) >= self.quorum else None

    def may_renew(self, now: float) -> bool:
        """False: it is lost, and nothing may be renewed anywhere. `now` is the moment of sending."""
        return self.since is not None and now < self.since + self.ttl


def in_force(answers: Mapping[str, Answer], gone: Collection[str]) -> dict[str, State]:
    """The live leases of others, by node."""
    found = {node: answer.live for node, answer in answers.items()}
    return {node: state for node, state in found.items() if state and state.token not in gone}
