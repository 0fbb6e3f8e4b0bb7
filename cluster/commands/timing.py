"""Times that a deployment states, from its events: clusterctl's own, and how long no generation answered."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

from cluster import phases
from cluster.apply import Event, OnEvent, PhaseDone, PhaseStarted, StepDone
from cluster.steps import Wait


@dataclass
class Timing:
    """`connecting` and `own` are seconds of clusterctl itself; `gone_at` when nothing answered any more.

    The last word of `answering` is what the head said before anything was done.
    """

    connecting: float = 0.0
    own: float = 0.0
    gone_at: float | None = None
    back_at: float | None = None

    def begin(self, answering: bool) -> None:
        """Before anything is done: a model that does not answer is away from here on."""
        if not answering and self.gone_at is None:
            self.gone_at = monotonic()

    def then(self, on_event: OnEvent) -> OnEvent:
        """Listens, and hands every event on."""

        def listen(event: Event) -> None:
            if isinstance(event, PhaseDone):
                self.own += event.own
            if isinstance(event, PhaseStarted) and event.phase.title == phases.REMOVE:
                self.gone_at, self.back_at = self.gone_at or monotonic(), None
            if isinstance(event, StepDone) and _is_completion(event):
                self.back_at = monotonic()
            on_event(event)

        return listen

    @property
    def away(self) -> float:
        """Seconds in which no generation answered; 0.0 where one always did."""
        if self.gone_at is None:
            return 0.0
        return max(0.0, (self.back_at or monotonic()) - self.gone_at)


def _is_completion(event: StepDone) -> bool:
    return isinstance(event.step, Wait) and event.step.argv[-1] == "ready"
