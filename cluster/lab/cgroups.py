"""The lab's control groups: made by its engines' containers, removed here when the containers are gone."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

ROOT = Path("/sys/fs/cgroup")


def remove(name: str) -> None:
    """With cgroup v2 there is one tree; with v1 one for each controller."""
    for top in (ROOT / name, *ROOT.glob(f"*/{name}")):
        for directory, _, _ in os.walk(top, topdown=False):
            # A cgroup is busy for a moment after its last process has ended.
            for attempt in Retrying(
                retry=retry_if_exception_type(OSError),
                stop=stop_after_delay(5),
                wait=wait_fixed(0.02),
                reraise=True,
            ):
                with attempt:
                    _remove_directory(directory)


def _remove_directory(directory: str) -> None:
    with suppress(FileNotFoundError):  # the engine removed it itself
        os.rmdir(directory)
