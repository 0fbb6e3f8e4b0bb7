"""What differs between what is and what is wanted, and what follows, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster import __version__, console
from cluster.facts import Facts
from cluster.generations.consequence import Consequence, consequence
from cluster.generations.difference import Change, difference
from cluster.generations.record import Generation
from cluster.inventory import parse
from cluster.inventory.spares import played
from cluster.journal import Target
from cluster.standing import standing


@dataclass(frozen=True)
class Changes:
    """From the current generation to a target; `before` None: nothing is recorded of it."""

    before: Generation | None
    changes: tuple[Change, ...]
    rendered_otherwise: bool
    follows: Consequence | None

    def __bool__(self) -> bool:
        """Whether an inventory would bring something else than what is current."""
        return self.before is None or bool(self.changes) or self.rendered_otherwise


def changes_to(before: Generation | None, target: Target, facts: Mapping[str, Facts]) -> Changes:
    """The changes, from the record of the current generation and the facts of the target's members.

    What follows from them is known where all members have answered.
    """
    found: tuple[Change, ...] = ()
    if before is not None:
        inventory = parse(before.inventory, f"generation {before.number}")
        found = difference(played(inventory, before.quarantined, looking=True), target.played)
    otherwise = before is not None and not found and before.digest != target.digest
    return Changes(before, found, otherwise, _follows(target, facts))


def _follows(target: Target, facts: Mapping[str, Facts]) -> Consequence | None:
    if any(member.name not in facts for member in target.plan.members):
        return None
    return consequence(target.plan, facts, standing(target.plan, facts, target.secrets))


def show(found: Changes, number: int, as_json: bool) -> None:
    """Say them before anything is done; nothing where there was no generation before."""
    if found.before is None:
        return
    if as_json:
        console.emit({"event": "difference", "generation": number, **changes_json(found)})
        return
    before = found.before.number
    console.say(f"generation {number}" if number == before else f"generation {before} -> {number}")
    for line in lines(found):
        console.say(f"  {line}")


def lines(found: Changes) -> list[str]:
    """A line a change, and what follows."""
    said = [str(change) for change in found.changes]
    if found.rendered_otherwise and found.before is not None:
        said.append(
            f"scripts are rendered otherwise by clusterctl {__version__} ({found.before.version} before)"
        )
    return [*said, *([str(found.follows)] if found.follows is not None else [])]


def changes_json(found: Changes) -> dict[str, Any]:
    """The same for programs."""
    return {
        "current": found.before.number if found.before is not None else None,
        "changes": [
            {"key": ".".join(change.key), "before": change.before, "after": change.after}
            for change in found.changes
        ],
        "rendered_otherwise": found.rendered_otherwise,
        "restarts": list(found.follows.restarts) if found.follows is not None else None,
        "starts": list(found.follows.starts) if found.follows is not None else None,
    }
