"""What is remembered of all looks so far: a few numbers, however long it is watched. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cluster.liveness.counters import Counters
from cluster.liveness.model import Observation

CLOSED_ROUNDS = 3


@dataclass(frozen=True)
class Settings:
    """Seconds: between two looks, until it counts as wedged, until a server has to have begun to serve."""

    interval: float
    wedged_after: float
    ready_timeout: float

    @property
    def longest_gap(self) -> float:
        """What the time between two looks counts at most.

        A watcher that was stopped itself (a laptop that slept) has seen nothing meanwhile; and nothing is
        judged by a single look.
        """
        return min(max(3 * self.interval, 5.0), self.wedged_after / 2)


@dataclass(frozen=True)
class History:
    """All times but `last.at` are seconds on a clock that runs while the server is looked at.

    `began`: when this server was first seen. `moved`: when it last showed that it works. `unanswered`: since
    when a completion is without an answer. `asked`: when one was last asked for. `proven`: this server did
    something under our eyes. `refused`: it did not want to answer the last question. `blind`: looks in a row
    at which its counters were not to be read. `listened`: its port was open, as it is when the model is
    loaded. `served`: that of this one or of one before it was. `closed`: looks in a row at which nobody
    listened. `away`: the moment (as `last.at`) since which the head does not answer.
    """

    settings: Settings
    last: Observation | None = None
    watched: float = 0.0
    server: str = ""
    began: float = 0.0
    moved: float = 0.0
    unanswered: float | None = None
    asked: float | None = None
    counters: Counters | None = None
    moved_now: bool = False
    blind: int = 0
    proven: bool = False
    refused: bool = False
    listened: bool = False
    served: bool = False
    closed: int = 0
    away: float | None = None

    def seen(self, now: Observation) -> History:
        """The history with one more look."""
        if not now.head_answers:
            away = now.at if self.away is None else self.away
            return replace(self, last=now, moved_now=False, away=away)
        clock = self.watched + self._gap(now)
        if not now.server:
            return replace(self, last=now, watched=clock, moved_now=False, unanswered=None, away=None)
        before = self if now.server == self.server else self._of(now.server)
        if not now.looked:
            return replace(before, last=now, moved_now=False, blind=before.blind + 1, away=None)
        return before._looked(now, clock)

    def question(self) -> History:
        """The history with a completion asked for now."""
        return replace(self, asked=self.watched)

    @property
    def still(self) -> float:
        """Seconds for which nothing moved and no completion was answered."""
        return self.watched - self.moved

    @property
    def waits(self) -> float:
        """Seconds for which nothing moved while a completion was without an answer."""
        return 0.0 if self.unanswered is None else self.watched - max(self.moved, self.unanswered)

    def _gap(self, now: Observation) -> float:
        if self.last is None or not self.last.head_answers or not now.looked:
            return 0.0
        return max(0.0, min(now.at - self.last.at, self.settings.longest_gap))

    def _of(self, server: str) -> History:
        """Nothing is known of a server that was just started, but that another has served before."""
        return History(
            self.settings,
            last=self.last,
            watched=self.watched,
            server=server,
            began=self.watched,
            moved=self.watched,
            served=self.served,
        )

    def _looked(self, now: Observation, clock: float) -> History:
        outcome = now.completion.outcome if now.completion is not None else None
        counted, known = now.counters, self.counters
        moved = counted is not None and known is not None and counted.marks != known.marks
        alive = moved or outcome == "answered"
        unanswered = self.unanswered
        if outcome in ("answered", "refused", "lost"):
            unanswered = None
        elif outcome is not None and unanswered is None:
            unanswered = self.watched if self.asked is None else self.asked
        listened = self.listened or not now.closed
        return replace(
            self,
            last=now,
            watched=clock,
            moved=clock if alive or (counted is not None and known is None) else self.moved,
            moved_now=alive,
            unanswered=unanswered,
            counters=counted or known,
            blind=0 if counted is not None else self.blind + 1,
            proven=self.proven or alive,
            refused=self.refused if outcome in (None, "waiting") else outcome == "refused",
            listened=listened,
            served=self.served or listened,
            closed=self.closed + 1 if now.closed else 0,
            away=None,
        )
