"""The steps that write generations down on every node that answers. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cluster import records
from cluster.generations.history import History
from cluster.generations.record import Generation, Outcome, State, outcome_text, record_text
from cluster.plan import Plan
from cluster.render import node_files
from cluster.standing import sha256
from cluster.steps import Put, Run

KEPT = 20  # generations; what is older goes, with its evidence
MODE = 0o600
PROGRAMS = ("on_node/", "plugins/")  # they come with clusterctl's version, which the record names


@dataclass(frozen=True)
class Note:
    """What became of a generation: `baselines` are {node: what runs there}, where it serves."""

    number: int
    state: State
    at: str
    reason: str = ""
    baselines: Mapping[str, Mapping[str, Any]] | None = None


def begin(
    cluster: str, nodes: Iterable[str], generation: Generation, plan: Plan, known: History
) -> Iterator[Put | Run]:
    """Its record, what each node gets, that it is starting and should run; what is too old goes."""
    needed = (known.current, known.fallback(generation.number))
    old = [n for n in sorted(known.outcomes)[: -KEPT + 1] if n not in needed]
    rendered = {member.name: _rendered(plan, member.name) for member in plan.members}
    outcome = Outcome("starting", generation.at, known.serial + 1, digest=generation.digest)
    for node in nodes:
        folder = _folder(cluster, node, generation.number)
        yield Put(node, f"{folder}/record.json", record_text(generation), MODE)
        if node in rendered:
            yield Put(node, f"{folder}/rendered.json", rendered[node], MODE)
        yield Put(node, f"{folder}/outcome.json", outcome_text(outcome), MODE)
        yield _current(cluster, node, generation.number)
        if old:
            yield Run(node, ("rm", "-rf", *(_folder(cluster, node, number) for number in old)))


def outcome(cluster: str, nodes: Iterable[str], note: Note, known: History) -> Iterator[Put | Run]:
    """What became of one, and of its predecessors where it serves; `current` names what should run."""
    notes = [*_superseded(known, note), note]
    for node in nodes:
        for serial, one in enumerate(notes, known.serial + 1):
            text = _next(known, node, one, serial)
            yield Put(node, f"{_folder(cluster, node, one.number)}/outcome.json", text, MODE)
        if note.state in ("starting", "serving"):
            yield _current(cluster, node, note.number)
        if note.state == "stopped":
            yield Run(node, ("rm", "-f", f"{records.folder(cluster, node)}/current"))


def ended(
    cluster: str, nodes: Iterable[str], known: History, at: str, unaware: Iterable[str] = ()
) -> tuple[Put | Run, ...]:
    """After `down`: nothing should run any more.

    `unaware` are nodes that still name a current generation; a `down` that was killed may have left some.
    """
    if known.current is not None:
        return tuple(outcome(cluster, nodes, Note(known.current, "stopped", at), known))
    last = max(known.outcomes, key=lambda number: known.outcomes[number].serial, default=None)
    return () if last is None else tuple(outcome(cluster, unaware, Note(last, "stopped", at), known))


def half_written(path: str) -> bool:
    """Whether a file is what a killed command left of writing another."""
    name = path.rpartition("/")[2]
    return name.startswith(".") and name.endswith(".part")


def tidy(cluster: str, kept: Mapping[str, records.Record]) -> Iterator[Run]:
    """What killed commands left half written in what is kept, gone."""
    for node, record in kept.items():
        left = [f"{records.folder(cluster, node)}/{path}" for path in record if half_written(path)]
        if left:
            yield Run(node, ("rm", "-f", *left))


def purge(cluster: str, nodes: Iterable[str]) -> tuple[Run, ...]:
    """All that was kept of a cluster, for `down --purge`, and the folders around it where nothing else is."""
    return tuple(Run(node, ("sh", "-c", _purge(cluster, node))) for node in nodes)


def _purge(cluster: str, node: str) -> str:
    own, around = shlex.quote(records.folder(cluster, node)), shlex.quote(f"{records.FOLDER}/{cluster}")
    above = ".local/state .local"  # made for it where there was nothing else
    empty = f"rmdir --ignore-fail-on-non-empty {around} {records.FOLDER} {above}"
    return f"rm -rf {own} && {empty} 2>/dev/null; :"


def _superseded(known: History, note: Note) -> Iterator[Note]:
    """Where one serves or all ends, whatever else served, or was begun by a command that did not end."""
    for number, found in known.outcomes.items():
        if (
            note.state in ("serving", "stopped")
            and number != note.number
            and found.state in ("starting", "serving")
        ):
            yield Note(number, "superseded", note.at)


def _next(known: History, node: str, note: Note, serial: int) -> str:
    """A node's outcome.json; what was noted when it served stays."""
    own = known.by_node.get(node, {}).get(note.number, Outcome(note.state))
    merged = known.outcomes.get(note.number, own)
    changed = replace(
        own,
        state=note.state,
        at=note.at,
        serial=serial,
        reason=note.reason,
        digest=merged.digest,
        served=merged.served or note.state == "serving",
    )
    if note.baselines is not None:
        changed = replace(changed, baseline=note.baselines.get(node, {}))
    return outcome_text(changed)


def _rendered(plan: Plan, node: str) -> str:
    """{path: its text}; of programs the sha256 alone."""
    files = {
        file.path: f"sha256:{sha256(file.content)}" if file.path.startswith(PROGRAMS) else file.content
        for file in node_files(plan, plan.member(node))
    }
    return json.dumps(files, ensure_ascii=False, indent=1) + "\n"


def _folder(cluster: str, node: str, number: int) -> str:
    return f"{records.folder(cluster, node)}/generations/{number}"


def _current(cluster: str, node: str, number: int) -> Put:
    return Put(node, f"{records.folder(cluster, node)}/current", f"{number}\n", MODE)
