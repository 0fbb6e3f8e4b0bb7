"""Carry out phases: in order, each on all its nodes at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ALL_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from tenacity import RetryCallState, Retrying, retry_if_result, wait_exponential
from tenacity import sleep_using_event as sleeping_on
from tenacity.stop import stop_after_delay, stop_when_event_set

from cluster.connection import Connection
from cluster.errors import CommandTimeout, ConnectionLost, Interrupted, JudgedError, PhaseError
from cluster.fenced import Lost
from cluster.log_lines import excerpt
from cluster.parallel import wait_for
from cluster.steps import Argv, Judgement, Outcome, Phase, Put, Result, Run, Step, Wait

EVIDENCE_TIMEOUT = 20.0
FIRST_POLL = 0.1
PATIENCE = 10.0  # seconds that a failure on one node waits for what the others are doing
NEARLY = 0.9


@dataclass(frozen=True)
class PhaseStarted:
    phase: Phase
    number: int
    of: int


@dataclass(frozen=True)
class StepStarted:
    step: Step


@dataclass(frozen=True)
class StepWaiting:
    """A Wait that goes on: why, after how many seconds."""

    step: Wait
    why: str
    seconds: float


@dataclass(frozen=True)
class StepDone:
    step: Step
    seconds: float


@dataclass(frozen=True)
class PhaseDone:
    """`own` is the part of `seconds` in which no node was at work for us, or was waited for."""

    phase: Phase
    seconds: float
    own: float


@dataclass(frozen=True)
class PhaseJudged:
    """What the answers of all nodes mean together."""

    phase: Phase
    judgement: Judgement


Event = PhaseStarted | StepStarted | StepWaiting | StepDone | PhaseJudged | PhaseDone
OnEvent = Callable[[Event], None]


def silently(_: Event) -> None:
    """For what is noted on the way, and is no step of a deployment."""


@dataclass
class _Clock:
    """Seconds that each node worked for us, or was waited for, in a phase."""

    by_node: dict[str, float] = field(default_factory=dict)

    def add(self, node: str, seconds: float) -> None:
        self.by_node[node] = self.by_node.get(node, 0.0) + seconds

    @property
    def longest(self) -> float:
        return max(self.by_node.values(), default=0.0)


class _Failed(Exception):
    """A step failed; the message is the reason."""


def apply(
    phases: tuple[Phase, ...],
    connections: Mapping[str, Connection],
    total: int,
    on_event: OnEvent,
    remedy: str,
    lost: Lost | None = None,
) -> Result | None:
    """Carry out all phases; the answer is the last step's result.

    `total` is the number of nodes of the cluster and `remedy` what to do after a failure, for the message.
    Raises PhaseError with a reason per node, JudgedError where a phase's judge finds errors, and Interrupted
    on Ctrl-C: the waits end, and what still talks to a node ends when the fleet closes its lines. Where the
    lock is `lost` it is the same, with LockLostError.
    """
    stop = threading.Event()
    running: dict[str, None] = {}
    last: Result | None = None
    executor = ThreadPoolExecutor(max_workers=max(1, len(connections)), thread_name_prefix="apply")
    try:
        for number, phase in enumerate(phases, 1):
            on_event(PhaseStarted(phase, number, len(phases)))
            work = _Work(connections, on_event, stop, running, lost)
            started = time.monotonic()
            last = _carry_out(phase, work, executor, total, remedy) or last
            seconds = time.monotonic() - started
            on_event(PhaseDone(phase, seconds, max(0.0, seconds - work.clock.longest)))
    except KeyboardInterrupt:
        raise Interrupted(_interruption(phase, running)) from None
    finally:
        stop.set()
        executor.shutdown(wait=False, cancel_futures=True)
    return last


def _interruption(phase: Phase, running: Mapping[str, None]) -> str:
    started = f"  started by now: {', '.join(running)}\n" if running else ""
    return (
        f"interrupted during: {phase.title}\n{started}"
        "  `clusterctl status` says what runs, `clusterctl up` continues, `clusterctl down` removes it"
    )


def _carry_out(
    phase: Phase, work: _Work, executor: ThreadPoolExecutor, total: int, remedy: str
) -> Result | None:
    futures = {
        node: executor.submit(work.do, tuple(step for step in phase.steps if step.node == node))
        for node in phase.nodes
    }
    if phase.judge is not None:
        wait_for(futures.values(), ALL_COMPLETED, work.is_lost)
        work.still_held()
        judgement = phase.judge({node: _outcome(future) for node, future in futures.items()})
        work.on_event(PhaseJudged(phase, judgement))
        if judgement.verdict.errors:
            raise JudgedError(phase.title, judgement.verdict.errors, total, remedy)
        return None
    wait_for(futures.values(), FIRST_EXCEPTION, work.is_lost)
    work.still_held()
    if any(_failure(future) for future in futures.values()):
        # The others' waits are in vain now. Their runs end by themselves, or with their lines.
        work.stop.set()
        wait(futures.values(), PATIENCE)
    reasons = {node: str(error) for node, future in futures.items() if (error := _failure(future))}
    if reasons:
        raise PhaseError(phase.title, reasons, total, remedy)
    results = [future.result() for future in futures.values()]
    return results[-1] if results else None


def _outcome(future: Future[Result | None]) -> Outcome:
    return str(error) if (error := _failure(future)) else future.result() or Result(0, "", "")


def _failure(future: Future[Result | None]) -> Exception | None:
    if not future.done():
        return None
    error = future.exception()
    if error is None or isinstance(error, _Failed | ConnectionLost):
        return error
    raise error


class _Work:
    """One phase's steps on the open lines."""

    def __init__(
        self,
        connections: Mapping[str, Connection],
        on_event: OnEvent,
        stop: threading.Event,
        running: dict[str, None],
        lost: Lost | None,
    ) -> None:
        self.clock, self.stop, self._running, self._lost = _Clock(), stop, running, lost
        self._connections, self.on_event = connections, on_event

    def is_lost(self) -> bool:
        return self._lost is not None and self._lost.is_set()

    def still_held(self) -> None:
        """Raises LockLostError where it is not; no step begins from then on, and the waits end."""
        if self._lost is not None and self._lost.is_set():
            self.stop.set()
            raise self._lost.error()

    def do(self, steps: tuple[Step, ...]) -> Result | None:
        """The steps of one node, in order. Raises _Failed or ConnectionLost at the first that fails."""
        result = None
        for step in steps:
            self.still_held()
            self.on_event(StepStarted(step))
            started = time.monotonic()
            if isinstance(step, Run) and step.starts:
                self._running[f"{step.starts} on {step.node}"] = None
            result = self._step(step)
            seconds = time.monotonic() - started
            self.clock.add(step.node, seconds)
            self.on_event(StepDone(step, seconds))
        return result

    def _step(self, step: Step) -> Result | None:
        if isinstance(step, Put):
            self._connections[step.node].put(step.path, step.content, step.mode)
            return None
        return self._wait(step) if isinstance(step, Wait) else self._run(step)

    def _run(self, step: Run) -> Result:
        result = self._connections[step.node].run(step.argv, timeout=step.timeout)
        if result.exit_code != 0:
            said = "\n".join((result.stderr or result.stdout).strip().splitlines()[-6:]) or "it said nothing"
            raise _Failed(f"{_short(step.argv)} exited {result.exit_code}: {said}{self._evidence(step)}")
        return result

    def _wait(self, step: Wait) -> Result:
        started = time.monotonic()
        latest: list[Result] = []

        def why() -> str | None:
            try:
                result = self._connections[step.node].run(step.argv, timeout=step.longest_answer)
            except CommandTimeout as error:
                return str(error)
            latest[:] = [result]
            in_vain = step.failed(result)
            if in_vain:
                raise _Failed(f"{in_vain}{self._evidence(step)}")
            return step.pending(result)

        def report(state: RetryCallState) -> None:
            reason = str(state.outcome.result()) if state.outcome else ""
            self.on_event(StepWaiting(step, reason, time.monotonic() - started))

        def give_up(state: RetryCallState) -> None:
            # When another node's failure ended the wait, only what was overdue too is worth a word.
            if self.stop.is_set() and time.monotonic() - started < NEARLY * step.timeout:
                return
            reason = state.outcome.result() if state.outcome else "it said nothing"
            raise _Failed(f"gave up after {step.timeout:g} s: {reason}{self._evidence(step)}")

        Retrying(
            retry=retry_if_result(lambda reason: reason is not None),
            stop=stop_after_delay(step.timeout) | stop_when_event_set(self.stop),
            wait=wait_exponential(multiplier=FIRST_POLL, max=step.longest_poll),
            sleep=sleeping_on(self.stop),
            before_sleep=report,
            retry_error_callback=give_up,
        )(why)
        return latest[0]

    def _evidence(self, step: Run | Wait) -> str:
        """The last log lines of the container that the step was about, if they can be had."""
        if not step.evidence:
            return ""
        try:
            result = self._connections[step.node].run(step.evidence, timeout=EVIDENCE_TIMEOUT)
        except ConnectionLost:
            return ""
        lines = excerpt((result.stdout or result.stderr).strip())
        return f"\n--- {_short(step.evidence)}\n{lines or '(nothing)'}"


def _short(argv: Argv) -> str:
    return " ".join(argv) if len(argv) <= 8 else " ".join(argv[:7]) + " ..."
