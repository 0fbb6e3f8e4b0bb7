"""`clusterctl watch`: what the cluster is doing, look after look; with --heal it is also mended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster import console
from cluster.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_NO, ClusterctlError
from cluster.inventory import Inventory, load
from cluster.liveness import Liveness, heal_due
from cluster.watching import Watcher, judged_once, watching

LONGEST_PAUSE = 600.0  # seconds between two attempts at healing that failed
Say = Callable[[Liveness], None]


def watch(file: Path, heal: bool, as_json: bool) -> int:
    """Until Ctrl-C. A node that does not answer is reported, and ends nothing."""
    inventory, never = load(file), threading.Event()
    say, healer = _sayer(as_json), Healer(file, inventory, as_json)
    try:
        with watching(inventory) as watcher:
            while True:
                began = time.monotonic()
                found = watcher.look()
                say(found)
                if heal and heal_due(watcher.history, found):
                    healer.heal(found)
                never.wait(max(0.0, inventory.watch.interval - (time.monotonic() - began)))
    except KeyboardInterrupt:  # how one ends it, and no error
        return EXIT_INTERRUPTED


def watch_once(file: Path, as_json: bool) -> int:
    """One judgement: 0 if it serves, 1 if not."""
    with watching(load(file)) as watcher:
        found = judged_once(watcher)
        _sayer(as_json)(found)
        if not as_json:
            _say_nodes(watcher, found)
    return EXIT_DONE if found.serves else EXIT_NO


class Healer:
    """Heals, and does not give up: after a failure it waits longer each time."""

    def __init__(self, file: Path, inventory: Inventory, as_json: bool) -> None:
        self._file, self._as_json, self._first = file, as_json, inventory.heal.backoff
        self._failures, self._not_before, self._said = 0, 0.0, ""

    def heal(self, found: Liveness) -> None:
        """Unless it is too early for another attempt; what went wrong is said, and is no error here."""
        from cluster.commands.heal import heal_watched

        if time.monotonic() < self._not_before:
            return
        try:
            done = heal_watched(self._file, self._as_json, found)
        except ClusterctlError as error:
            self._failures += 1
            self._wait(min(self._first * 2 ** (self._failures - 1), LONGEST_PAUSE))
            self._say({"state": "failed", "exit_code": error.exit_code, "why": str(error)})
            return
        self._failures = 0
        self._wait(max(done.seconds, self._first))
        self._say({"state": done.state, "why": done.why})

    def _wait(self, seconds: float) -> None:
        self._not_before = time.monotonic() + seconds

    def _say(self, content: Mapping[str, Any]) -> None:
        """Once, however often it is so."""
        if str(content) == self._said and content["state"] != "healed":
            return
        self._said = str(content)
        if self._as_json:
            console.emit({"event": "heal", "time": _now(), **content})
        else:
            console.say(f"{_now()}  heal: {content['state']}: {content['why']}")


def _sayer(as_json: bool) -> Say:
    """For programs every look; for a person what changed."""
    before: list[tuple[object, ...]] = [()]

    def say(found: Liveness) -> None:
        if as_json:
            console.emit(to_json(found))
            return
        now = (found.state, *found.nodes)
        if now != before[0]:
            console.say(f"{_now()}  {found.state:<11}  {found.why}")
        before[0] = now

    return say


def to_json(found: Liveness) -> dict[str, Any]:
    """One look for programs; `seconds`: for how long nothing was seen to move."""
    return {
        "event": "liveness",
        "time": _now(),
        "state": found.state,
        "serves": found.serves,
        "why": found.why,
        "nodes": dict(found.nodes),
        "running": found.running,
        "waiting": found.waiting,
        "seconds": found.seconds,
    }


def _say_nodes(watcher: Watcher, found: Liveness) -> None:
    for member in watcher.plan.members:
        if member.name in found.nodes:
            console.say(f"! {member.name}: {found.nodes[member.name]}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
