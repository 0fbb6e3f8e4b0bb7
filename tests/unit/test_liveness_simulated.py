"""A thousand simulated servers under the watcher's judgement: how often it is wrong, and how long it takes.

The simulated engine works in steps, as vLLM's does: a step takes a chunk of one prompt and makes a token for
each request that is past its own; counters move as vLLM's (see cluster/liveness/__init__.py). Around it
everything is unkind: bursts that queue for longer than a question waits, prompts of many chunks, steps of
more than a third of `wedged_after`, pauses of more than half of it, restarts, looks that fail, lines that
break, a watcher that is itself stopped for an hour. In half of the runs the engine, or the whole server,
stands still from a random moment on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median

import pytest

from cluster.liveness import Completion, Counters, History, Observation, Settings, ask_due, judge

SETTINGS = Settings(interval=10.0, wedged_after=120.0, ready_timeout=3600.0)
RUNS = 1000
DURATION = 3600.0
MAX_RUNNING = 8
PROBE = "probe"
# A step and a pause together stay below `wedged_after`: what stands still for longer is wedged by definition.
LONGEST_STEP, LONGEST_PAUSE = 45.0, 65.0


@dataclass
class Request:
    """What is left of it: chunks of its prompt, then tokens."""

    chunks: int
    tokens: int
    name: str = ""
    done: int = 0


@dataclass
class Server:
    """An engine behind an HTTP server, at `now`."""

    chance: random.Random
    wedges_at: float
    freezes_whole: bool
    step: float = 0.05
    now: float = 0.0
    number: int = 1
    loading_until: float = 0.0
    paused_until: float = 0.0
    queue: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)
    rest: float = 0.0
    prompt_tokens: int = 0
    tokens: int = 0
    answered: bool = False
    counters: Counters = field(default_factory=Counters)

    @property
    def wedged(self) -> bool:
        return self.now >= self.wedges_at

    def pass_time(self, until: float) -> None:
        """Work until then, as far as nothing holds it up."""
        begin = max(self.now, self.paused_until, self.loading_until)
        end = min(until, self.wedges_at)
        self.now = until
        if end <= begin:
            return
        self.rest += end - begin
        steps, self.rest = int(self.rest / self.step), self.rest % self.step
        while steps and (self.queue or self.running):
            steps -= self._work(steps)
        if not self.running and not self.queue:
            self.rest = 0.0
        self.counters = self._count()

    def _work(self, most: int) -> int:
        """Some steps of which each is as the one before; how many."""
        while self.queue and len(self.running) < MAX_RUNNING:
            self.running.append(self.queue.pop(0))
        # A chunk takes all that a step may take beside the tokens of others: one prompt after the other.
        prompt = next((r for r in self.running if r.chunks), None)
        scheduled = [r for r in self.running if r is prompt or not r.chunks]
        steps = min(most, *(r.chunks or r.tokens for r in scheduled))
        for request in scheduled:
            if request is prompt:
                request.chunks -= steps
                request.done += steps
                self.prompt_tokens += 2048 if not request.chunks else 0
            else:
                request.tokens -= steps
                self.tokens += steps
        self.answered |= any(r.name == PROBE and not r.tokens for r in self.running)
        self.running = [r for r in self.running if r.chunks or r.tokens]
        return steps

    def restart(self, seconds: float) -> None:
        self.number += 1
        self.loading_until = self.now + seconds
        self.queue, self.running, self.rest = [], [], 0.0
        self.prompt_tokens = self.tokens = 0

    def drop_probe(self) -> None:
        """Its client has gone away."""
        self.queue = [r for r in self.queue if r.name != PROBE]
        self.running = [r for r in self.running if r.name != PROBE]

    def _count(self) -> Counters:
        """What the engine reports; one that stands still reports nothing else."""
        held = sum(r.done for r in self.running) / 10_000
        marks = {
            "prompt": float(self.prompt_tokens),
            "generation": float(self.tokens),
            "kv": held,
            "running": float(len(self.running)),
        }
        return Counters(len(self.running), len(self.queue), False, marks)


@dataclass
class Run:
    """One run: what the watcher said and when, and what was so."""

    chance: random.Random
    wedges_at: float
    server: Server
    asked_at: float | None = None
    blind_after_wedge: float = 0.0
    asleep_until: float = 0.0
    away_until: float = 0.0

    def looks(self) -> Iterator[Observation]:
        """What the watcher sees, round by round; it sends when it asked."""
        now = 0.0
        while now < (3 * DURATION if self.server.wedged else DURATION):
            stale = self._completion()
            previous, now = now, now + SETTINGS.interval * self.chance.uniform(0.9, 1.3)
            if self.chance.random() < 0.0015:
                now += self.chance.uniform(60, 3600)  # the watcher itself is stopped
                self._note_blind(now, now - previous)
                self._live(now)
                yield self._look(now, stale)  # and has not heard yet what came meanwhile
                continue
            self._live(now)
            yield self._look(now, self._completion())

    def _note_blind(self, now: float, seconds: float) -> None:
        if now > self.wedges_at:
            self.blind_after_wedge += seconds + 2 * SETTINGS.longest_gap

    def _live(self, until: float) -> None:
        """Things happen to the server, every ten seconds."""
        chance, server = self.chance, self.server
        while server.now < until:
            if chance.random() < 0.005:
                server.queue += [self._request() for _ in range(chance.choice((1, 5, 50, 300)))]
            if chance.random() < 0.0025:
                server.step = chance.choice((0.02, 0.05, 0.5, 5.0, LONGEST_STEP))
            if chance.random() < 0.0015 and server.now > server.paused_until + 2 * SETTINGS.wedged_after:
                server.paused_until = server.now + chance.uniform(1, LONGEST_PAUSE)
            if chance.random() < 0.0005 and not server.wedged:
                server.restart(chance.uniform(20, 400))
            server.pass_time(min(until, server.now + 10.0))

    def _request(self) -> Request:
        return Request(self.chance.choice((1, 1, 1, 4, 60)), self.chance.choice((1, 16, 200, 2000)))

    def _completion(self) -> Completion | None:
        if self.asked_at is None:
            return None
        server = self.server
        if server.answered:
            self.asked_at = None
            return Completion("answered")
        if server.now < server.loading_until:
            self.asked_at = None
            return Completion("lost")
        if server.now - self.asked_at > SETTINGS.wedged_after + 3 * SETTINGS.interval:
            self.asked_at = None
            server.drop_probe()
            return Completion("failed", "timed out")
        return Completion("waiting")

    def _look(self, now: float, completion: Completion | None) -> Observation:
        server, chance = self.server, self.chance
        if now < self.away_until or chance.random() < 0.003:
            self.away_until = max(self.away_until, now + chance.choice((0, 0, 60)))
            self._note_blind(now, SETTINGS.interval)
            return Observation(now, head_answers=False, unreachable={"gpu-01": "no answer"})
        if now < server.loading_until:
            return Observation(now, server=str(server.number), closed=True, completion=completion)
        frozen = server.wedged and server.freezes_whole
        worker = {"gpu-02": "no answer"} if chance.random() < 0.02 else {}
        failed = frozen or chance.random() < 0.05
        return Observation(
            now,
            server=str(server.number),
            unreachable=worker,
            health=None if frozen or chance.random() < 0.02 else 200,
            reason="timed out" if failed else "",
            counters=None if failed else server.counters,
            completion=completion,
        )

    def ask(self) -> None:
        self.asked_at, self.server.answered = self.server.now, False
        self.server.queue.append(Request(1, 1, PROBE))


@dataclass
class Outcome:
    false_alarms: list[tuple[float, str, str]] = field(default_factory=list)
    found_after: float | None = None
    wedged: bool = False
    was_idle: bool = False
    blind: float = 0.0
    questions: int = 0
    looks: int = 0


def simulate(seed: int) -> Outcome:
    chance = random.Random(seed)
    wedges = seed % 2 == 0
    wedges_at = chance.uniform(300, DURATION * 0.7) if wedges else float("inf")
    server = Server(chance, wedges_at, freezes_whole=chance.random() < 0.2)
    run, outcome = Run(chance, wedges_at, server), Outcome()
    history = History(SETTINGS)
    for look in run.looks():
        history = history.seen(look)
        verdict = judge(history)
        outcome.looks += 1
        if server.wedged and not outcome.wedged:
            outcome.wedged, outcome.was_idle = True, not (server.queue or server.running)
            # A restart that has only begun hides it: it counts from when it would have been ready.
            wedges_at = max(wedges_at, server.loading_until)
        if verdict.state in ("wedged", "dead"):
            if not server.wedged:
                outcome.false_alarms.append((look.at, verdict.state, verdict.why))
            else:
                outcome.found_after = look.at - wedges_at
                outcome.blind = run.blind_after_wedge
                break
        if run.asked_at is None and ask_due(history):
            history = history.question()
            run.ask()
            outcome.questions += 1
    return outcome


def test_a_thousand_runs() -> None:
    outcomes = [simulate(seed) for seed in range(RUNS)]
    wedged = [outcome for outcome in outcomes if outcome.wedged]
    alarms = [alarm for outcome in outcomes for alarm in outcome.false_alarms]
    found = [outcome for outcome in wedged if outcome.found_after is not None]
    took = {
        name: sorted(
            o.found_after - o.blind for o in found if o.was_idle == idle and o.found_after is not None
        )
        for name, idle in (("idle", True), ("with requests", False))
    }
    looks, questions = sum(o.looks for o in outcomes), sum(o.questions for o in outcomes)
    print(f"\n{len(outcomes)} runs, {looks} looks, {questions} questions; false alarms: {len(alarms)}")
    for name, seconds in took.items():
        print(
            f"wedged while {name}: {len(seconds)}, found after {median(seconds):.0f} s (median),"
            f" {seconds[-1]:.0f} s at most; wedged_after is {SETTINGS.wedged_after:.0f} s"
        )
    assert alarms == []
    assert len(wedged) > RUNS / 3
    assert len(found) == len(wedged)
    assert all(len(seconds) > 20 for seconds in took.values())
    assert took["with requests"][-1] <= SETTINGS.wedged_after + 6 * SETTINGS.interval
    assert took["idle"][-1] <= 2 * SETTINGS.wedged_after + 6 * SETTINGS.interval


def unanswered(history: History) -> float:
    return 0.0 if history.unanswered is None else history.watched - history.unanswered


@pytest.mark.parametrize(
    "judged_by", [lambda history: history.still, unanswered], ids=["counters-alone", "completions-alone"]
)
def test_the_runs_are_hard(monkeypatch: pytest.MonkeyPatch, judged_by: Callable[[History], float]) -> None:
    """Who judges by one of the two alone raises many false alarms in the same runs."""
    monkeypatch.setattr(History, "waits", property(judged_by))
    alarms = sum(bool(simulate(seed).false_alarms) for seed in range(40))
    print(f"\nin {alarms} of 40 runs")
    assert alarms >= 10


def test_without_the_fill_of_the_kv_cache_long_prompts_look_wedged(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Server._count

    def without(self: Server) -> Counters:
        found = counted(self)
        marks = {name: value for name, value in found.marks.items() if name != "kv"}
        return Counters(found.running, found.waiting, False, marks)

    monkeypatch.setattr(Server, "_count", without)
    assert any(simulate(seed).false_alarms for seed in range(100))
