"""Times that a deployment states, from its events: clusterctl's own, and how long no generation answered."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

from cluster import phases
from cluster.apply import Event, OnEvent, PhaseDone, PhaseStarted, StepDone
from cluster.steps import Phase, Run, Wait


@dataclass
class Timing:
    """`connecting` and `own` are seconds of clusterctl itself.

    `gone_at` is since when nothing answers, by the monotonic clock; None: something does. `gone` are the
    seconds of such times that are over.
    """

    connecting: float = 0.0
    own: float = 0.0
    gone: float = 0.0
    gone_at: float | None = None

    def begin(self, answering: bool) -> None:
        """Before anything is done: a model that does not answer is away from here on."""
        if not answering:
            self._goes()

    def then(self, on_event: OnEvent) -> OnEvent:
        """Listens, and hands every event on."""

        def listen(event: Event) -> None:
            if isinstance(event, PhaseDone):
                self.own += event.own
            if isinstance(event, PhaseStarted) and _stops(event.phase):
                self._goes()
            if isinstance(event, StepDone) and _is_completion(event):
                self._is_back()
            on_event(event)

        return listen

    @property
    def away(self) -> float:
        """Seconds in which no generation answered; 0.0 where one always did."""
        return self.gone + (monotonic() - self.gone_at if self.gone_at is not None else 0.0)

    def _goes(self) -> None:
        self.gone_at = monotonic() if self.gone_at is None else self.gone_at

    def _is_back(self) -> None:
        self.gone, self.gone_at = self.away, None


def _stops(phase: Phase) -> bool:
    """Whether a phase stops what runs; a container that ended, or never began, is removed without."""
    words = {word for step in phase.steps if isinstance(step, Run) for word in step.argv}
    return phase.title == phases.REMOVE and bool(words & {"stop", "down"})


def _is_completion(event: StepDone) -> bool:
    return isinstance(event.step, Wait) and event.step.argv[-1] == "ready"
