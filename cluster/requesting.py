"""A steady stream of small completions, as users send them, and what became of each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from cluster.connection import Connection
from cluster.drilling.requests import Request
from cluster.errors import ConnectionLost
from cluster.facts import one_token
from cluster.liveness import completion
from cluster.on_node.completion import PROMPT, NoAnswer, answer_in, post
from cluster.plan import Plan

RATE = 2.0  # requests a second: a drill asks whether it answers, not how much it carries
LONGEST = 30.0  # seconds until a request without an answer counts as lost
MAX_TOKENS = 4
AT_ONCE = 96  # more than RATE * LONGEST: a server that hangs holds no request back

# Why there is no answer, or nothing.
Ask = Callable[[], str]


class Stream:
    """The requests so far; `ask` is called in threads of its own, RATE times a second."""

    def __init__(self, ask: Ask, rate: float) -> None:
        self._ask, self._pause = ask, 1 / rate
        self._ended: list[Request] = []
        self._over = threading.Event()
        self._executor = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="request")
        self._clock = threading.Thread(target=self._tick, daemon=True)
        self._clock.start()

    @property
    def requests(self) -> tuple[Request, ...]:
        """Those that have ended."""
        return tuple(self._ended)

    def end(self, wait: bool = True) -> None:
        """No further request; with `wait` those under way end first, in LONGEST seconds at most."""
        self._over.set()
        self._clock.join()
        self._executor.shutdown(wait=wait, cancel_futures=not wait)

    def _tick(self) -> None:
        while not self._over.wait(self._pause):
            self._executor.submit(self._send)

    def _send(self) -> None:
        sent = time.monotonic()
        why = self._ask()
        self._ended.append(Request(sent, time.monotonic(), why))


@contextmanager
def requests(ask: Ask) -> Iterator[Stream]:
    """A stream that ends with the block, whatever happens in it."""
    stream = Stream(ask, RATE)
    try:
        yield stream
    finally:
        stream.end(wait=False)


def from_here(plan: Callable[[], Plan], environ: Mapping[str, str]) -> Ask:
    """Over HTTP to the head of the moment, with VLLM_API_KEY of `environ`."""

    def ask() -> str:
        now = plan()
        body = {"model": now.served_name, "prompt": PROMPT, "max_tokens": MAX_TOKENS, "temperature": 0}
        try:
            answer_in(post(f"{now.url}/v1/completions", body, LONGEST, environ))
        except NoAnswer as error:
            return str(error)
        return ""

    return ask


def through_the_head(plan: Callable[[], Plan], line: Callable[[str], Connection | None]) -> Ask:
    """By a program in the server's container, for a server that cannot be reached from here."""

    def ask() -> str:
        now = plan()
        head = line(now.head.name)
        if head is None:
            return f"{now.head.name} cannot be reached"
        try:
            found = completion(head.run(one_token(now, LONGEST), timeout=2 * LONGEST))
        except ConnectionLost as error:
            return str(error)
        return "" if found.outcome == "answered" else found.reason or found.outcome

    return ask
