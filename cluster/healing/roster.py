"""The roster: which nodes are not used any more and why, and how often the cluster was restarted. Pure.

Every node carries it, as roster.json beside the lock. Where nodes differ, because some could not be reached
when it was written, the one of the highest epoch counts, and of one epoch the highest revision.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster import records
from cluster.steps import Phase, Put

PATH = "roster.json"
MOST_RESTARTS = 200  # kept, and counted: the file stays small


class Entry(BaseModel):
    """Part of the file; keys of a later version are passed over, not lost data's cause."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Quarantined(Entry):
    """Why a node is not used, since when (ISO 8601, UTC), and who decided it: user@place."""

    reason: str
    since: str
    by: str


class Restart(Entry):
    """One restart of all ranks; `node` is whose fault it was, empty where nobody's."""

    at: str
    why: str
    node: str = ""

    @property
    def time(self) -> float:
        """Seconds since 1970."""
        return datetime.fromisoformat(self.at).timestamp()


class _File(Entry):
    epoch: int
    revision: int = 0
    quarantined: dict[str, Quarantined] = {}
    out: tuple[str, ...] = ()
    restarts: tuple[Restart, ...] = ()


@dataclass(frozen=True)
class Roster:
    """`quarantined` are those that are out of use, `restarts` in the order of time.

    `out` is what `inventory.spares.played` takes: who fell out, in that order, and a name again where it came
    back.
    """

    epoch: int = 0
    revision: int = 0
    quarantined: tuple[tuple[str, Quarantined], ...] = ()
    out: tuple[str, ...] = ()
    restarts: tuple[Restart, ...] = ()

    def reason(self, node: str) -> str:
        """Why a node is out of use; empty where it is not."""
        return next((entry.reason for name, entry in self.quarantined if name == node), "")

    def without(self, node: str) -> Roster:
        """The roster with a node that can be used again: it stands by as a spare."""
        left = tuple(item for item in self.quarantined if item[0] != node)
        return self if left == self.quarantined else replace(self, quarantined=left, out=(*self.out, node))

    def with_quarantined(self, node: str, reason: str, at: str, by: str) -> Roster:
        """The roster with a node out of use; who is out already keeps the first reason."""
        if any(name == node for name, _ in self.quarantined):
            return self
        entry = Quarantined(reason=reason, since=at, by=by)
        return replace(self, quarantined=(*self.quarantined, (node, entry)), out=(*self.out, node))

    def with_restart(self, at: str, why: str, node: str = "") -> Roster:
        """The roster with one restart more."""
        restarts = (*self.restarts, Restart(at=at, why=why, node=node))
        return replace(self, restarts=restarts[-MOST_RESTARTS:])


def stamp(time: float) -> str:
    """Seconds since 1970 as it stands in the roster: `2026-11-21T05:24:26Z`."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(text: str) -> Roster | None:
    """The roster in a file; None for what is none."""
    try:
        file = _File.model_validate_json(text)
        for restart in file.restarts:
            restart.time  # noqa: B018  a moment that is none
    except (ValidationError, ValueError, OverflowError):
        return None
    out = file.out or tuple(file.quarantined)
    return Roster(file.epoch, file.revision, tuple(file.quarantined.items()), out, file.restarts)


def text(roster: Roster) -> str:
    """The file of a roster."""
    content = {
        "epoch": roster.epoch,
        "revision": roster.revision,
        "quarantined": {name: entry.model_dump() for name, entry in roster.quarantined},
        "out": list(roster.out),
        "restarts": [restart.model_dump() for restart in roster.restarts],
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def newest(kept: Mapping[str, records.Record]) -> Roster:
    """The roster that counts among those that the nodes carry; an empty one where none does."""
    found = [roster for record in kept.values() if (roster := parse(record.get(PATH, ""))) is not None]
    return max(found, key=lambda roster: (roster.epoch, roster.revision), default=Roster())


def write(cluster: str, roster: Roster, epoch: int, nodes: Collection[str]) -> tuple[Roster, Phase]:
    """(The roster as it is written in an epoch, the step on every node that can be reached)."""
    written = replace(roster, epoch=epoch, revision=roster.revision + 1)
    content = text(written)
    steps = tuple(Put(node, f"{records.folder(cluster, node)}/{PATH}", content, 0o600) for node in nodes)
    return written, Phase("Write the roster down", steps)
