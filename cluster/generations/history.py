"""All generations of a cluster, as its nodes tell it together. Pure.

A command that was killed may have written on some nodes and not on others, so nodes are not asked to agree:
of each generation the outcome with the highest serial counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.generations.record import Generation, Outcome, read_outcome, read_record
from cluster.records import Record

OUTCOME = re.compile(r"generations/(\d{1,9})/outcome\.json")
RECORD = re.compile(r"generations/(\d{1,9})/record\.json")


@dataclass(frozen=True)
class History:
    """`outcomes` by number, in order; `by_node` the same of each node, for its own baseline."""

    outcomes: Mapping[int, Outcome] = field(default_factory=dict)
    by_node: Mapping[str, Mapping[int, Outcome]] = field(default_factory=dict)

    @property
    def current(self) -> int | None:
        """The generation that should run; None after `down`, and before the first.

        It is the one that was written about last. One that was replaced is never it: the word that it was is
        written just before the word about its successor.
        """
        found = [number for number in self.outcomes if self.outcomes[number].state != "superseded"]
        last = max(found, key=lambda number: (self.outcomes[number].serial, number), default=None)
        return None if last is None or self.outcomes[last].state == "stopped" else last

    @property
    def newest(self) -> int:
        """The highest number that was ever given; 0: none."""
        return max(self.outcomes, default=0)

    @property
    def serial(self) -> int:
        """Of the last outcome that was written anywhere; 0: none."""
        return max((outcome.serial for outcome in self.outcomes.values()), default=0)

    @property
    def served(self) -> int | None:
        """The current generation, if it serves."""
        current = self.current
        return current if current is not None and self.outcomes[current].state == "serving" else None

    @property
    def served_before(self) -> int | None:
        """The newest generation before the current one that ever served; after `down` who served last."""
        found = [n for n, outcome in self.outcomes.items() if outcome.served and n != self.current]
        if self.current is None:
            return max(found, key=lambda n: self.outcomes[n].serial, default=None)
        return max([n for n in found if n < self.current] or found, default=None)

    def fallback(self, number: int) -> int | None:
        """What is put back where `number` does not serve: the last that served and that none replaced since.

        Also where the command was killed that was to replace it, or to put it back. None after `down`.
        """
        found = [n for n, o in self.outcomes.items() if o.served and o.state in ("serving", "starting")]
        others = [n for n in found if n != number and self.current is not None]
        return max(others, key=lambda n: self.outcomes[n].serial, default=None)

    def number_for(self, digest: str) -> int:
        """The number of a generation of this digest: what is current or was begun goes on, else the next."""
        for number in (self.current, self.newest):
            outcome = self.outcomes.get(number or 0)
            if number and outcome and outcome.digest == digest and self._goes_on(number):
                return number
        return self.newest + 1

    def _goes_on(self, number: int) -> bool:
        return number == self.current or self.outcomes[number].state == "starting"

    def baseline(self, node: str) -> Mapping[str, object]:
        """What ran on a node when the current generation served there; empty: nothing is known."""
        own = self.by_node.get(node, {}).get(self.current or 0)
        return own.baseline if own is not None else {}


def history(records: Mapping[str, Record]) -> History:
    """The history in what the nodes have kept, {node: {path: text}}."""
    by_node = {node: dict(_outcomes(record)) for node, record in records.items()}
    merged: dict[int, Outcome] = {}
    for own in by_node.values():
        for number, outcome in own.items():
            known = merged.get(number)
            if known is None or outcome.serial > known.serial:
                merged[number] = outcome
    return History(dict(sorted(merged.items())), by_node)


def _outcomes(record: Record) -> list[tuple[int, Outcome]]:
    found = ((OUTCOME.fullmatch(path), text) for path, text in record.items())
    read = ((int(match[1]), read_outcome(text)) for match, text in found if match)
    return [(number, outcome) for number, outcome in read if outcome is not None]


def generations(records: Mapping[str, Record]) -> dict[int, Generation]:
    """{number: its record}, in order; those that no node can show whole are missing."""
    found: dict[int, Generation] = {}
    for record in records.values():
        for path, text in record.items():
            read = read_record(text) if RECORD.fullmatch(path) else None
            if read is not None:
                found.setdefault(read.number, read)
    return dict(sorted(found.items()))
