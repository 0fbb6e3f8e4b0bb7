"""The same on many nodes at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from cluster.errors import ConnectionLost

T = TypeVar("T")
R = TypeVar("R")


def on_all(items: Mapping[str, T], act: Callable[[T], R]) -> dict[str, R | ConnectionLost]:
    """{key: what `act` made of the item}, all at once; a lost line is an answer too.

    On Ctrl-C it does not wait for the others: closing their lines ends them.
    """
    executor = ThreadPoolExecutor(max_workers=max(1, len(items)))
    try:
        futures: dict[str, Future[R]] = {key: executor.submit(act, item) for key, item in items.items()}
        wait(futures.values())
        answers: dict[str, R | ConnectionLost] = {}
        for key, future in futures.items():
            error = future.exception()
            answers[key] = error if isinstance(error, ConnectionLost) else future.result()
        return answers
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
