"""The same on many nodes at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ALL_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from cluster.errors import ConnectionLost

T = TypeVar("T")
R = TypeVar("R")

# Python sees a signal only when the main thread wakes; one that comes just before it blocks would be lost.
LONGEST_BLOCK = 0.5


def on_all(items: Mapping[str, T], act: Callable[[T], R]) -> dict[str, R | ConnectionLost]:
    """{key: what `act` made of the item}, all at once; a lost line is an answer too.

    On Ctrl-C it does not wait for the others: closing their lines ends them.
    """
    executor = ThreadPoolExecutor(max_workers=max(1, len(items)))
    try:
        futures: dict[str, Future[R]] = {key: executor.submit(act, item) for key, item in items.items()}
        wait_for(futures.values())
        answers: dict[str, R | ConnectionLost] = {}
        for key, future in futures.items():
            error = future.exception()
            answers[key] = error if isinstance(error, ConnectionLost) else future.result()
        return answers
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def wait_for(
    futures: Iterable[Future[Any]],
    return_when: str = ALL_COMPLETED,
    until: Callable[[], bool] = lambda: False,
) -> None:
    """As `concurrent.futures.wait`, but Ctrl-C ends it at any moment, and so does `until`, soon."""
    waited = tuple(futures)
    over = False
    while not over:
        done, pending = wait(waited, LONGEST_BLOCK, return_when)
        failed = return_when == FIRST_EXCEPTION and any(future.exception() for future in done)
        over = not pending or failed or until()
