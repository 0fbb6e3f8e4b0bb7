"""Looking at a cluster again and again, and judging it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from cluster.connection import Connection
from cluster.errors import ConnectionLost
from cluster.facts import one_token, what_lives
from cluster.fleet import Fleet
from cluster.gather import gather_tolerantly
from cluster.inventory import Inventory
from cluster.lines import Line, lasting, split
from cluster.liveness import Completion, History, Liveness, Settings, ask_due, completion, judge, observation
from cluster.plan import Plan, make_plan
from cluster.played import played_now

# Seconds: one look at a node, of which the server is given 10; what a question may take beyond its own limit.
LOOK_TIMEOUT = 20.0
GRACE = 60.0
SOON = 1.0


class Watcher:
    """Judges a cluster by all that it has seen so far. `plan` is that of the nodes which carry it now."""

    def __init__(self, inventory: Inventory, lines: Mapping[str, Line]) -> None:
        self._inventory, self._lines = inventory, lines
        self._question: _Question | None = None
        watch = inventory.watch
        self.history = History(Settings(watch.interval, watch.wedged_after, inventory.serve.ready_timeout))
        self.plan = make_plan(inventory)
        self._follow_the_roster()

    def look(self) -> Liveness:
        """One look at all nodes at once; where it is due, the model is asked for a token beside it.

        A node that does not answer is part of what is found, and no error.
        """
        opened, closed = split({m.name: self._lines[m.name] for m in self.plan.members})
        asked = next((m.name for m in self.plan.members if m.name in opened), "")
        facts, lost = gather_tolerantly(self.plan, opened, partial(what_lives, asked=asked), LOOK_TIMEOUT)
        for name, reason in lost.items():
            self._lines[name].broke(opened[name], reason)
        answer = self._question.completion if self._question is not None else None
        now = observation(self.plan, facts, {**closed, **lost}, answer, time.monotonic())
        self.history = self.history.seen(now)
        found = judge(self.history)
        self._ask(opened.get(self.plan.head.name))
        if not found.serves:
            self._follow_the_roster()
        return found

    def _ask(self, head: Connection | None) -> None:
        """At most one question at a time: each that is given up is one more in the server's queue."""
        if self._question is not None and self._question.completion.outcome == "waiting":
            return
        self._question = None
        if head is not None and ask_due(self.history):
            self.history = self.history.question()
            # Longer than it takes to be called wedged: it is while a question is open that it becomes so.
            settings = self.history.settings
            self._question = _Question(self.plan, head, settings.wedged_after + 3 * settings.interval)

    def _follow_the_roster(self) -> None:
        """A spare may have taken a place since, by this watcher's own healing or by an operator's."""
        now, _ = played_now(self._inventory, Fleet(*split(self._lines)))
        plan = make_plan(now)
        if plan != self.plan:
            self.plan, self._question = plan, None
            self.history = replace(History(self.history.settings), served=self.history.served)


class _Question:
    """One token, asked for by a thread of its own, as the answer may take minutes."""

    def __init__(self, plan: Plan, head: Connection, wait: float) -> None:
        self.completion = Completion("waiting")
        threading.Thread(target=self._put, args=(plan, head, wait), daemon=True).start()

    def _put(self, plan: Plan, head: Connection, wait: float) -> None:
        try:
            self.completion = completion(head.run(one_token(plan, wait), timeout=wait + GRACE))
        except ConnectionLost as error:
            self.completion = Completion("lost", str(error))


@contextmanager
def watching(inventory: Inventory) -> Iterator[Watcher]:
    """A watcher with lines of its own to all nodes of the inventory, spares too."""
    with lasting(inventory) as lines:
        yield Watcher(inventory, lines)


def judged_once(watcher: Watcher) -> Liveness:
    """Looks until it is certain, and no longer than it takes to call a server wedged.

    Certain is what cannot serve, and what answered or moved under our eyes.
    """
    settings, never = watcher.history.settings, threading.Event()
    end = time.monotonic() + settings.wedged_after + 3 * settings.interval
    found = watcher.look()
    while found.serves and not watcher.history.proven and time.monotonic() < end:
        never.wait(min(SOON, settings.interval))
        found = watcher.look()
    return found
