"""`clusterctl lock`: who is at work on the nodes, and an end to a lock that nobody will give back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster import console, fleet
from cluster.errors import EXIT_DONE, EXIT_NO, EXIT_USAGE, ConnectError, ConnectionLost, PhaseError
from cluster.inventory import Inventory, load
from cluster.lock.messages import condition, described
from cluster.lock.state import Answer
from cluster.locks import SHOW_TIMEOUT, ask, fences, shown
from cluster.parallel import on_all

COLUMNS = ("node", "lock", "epoch", "holder", "command", "since", "last heard", "expires")
REMEDY = (
    "The others are free. Where a node is silent its lock expires by itself, if its holder is silent too."
)


def status(file: Path, as_json: bool) -> int:
    """Say of every node who holds its lock. Raises ConnectError where none answers."""
    inventory = load(file)
    with fleet.connect(inventory, tolerant=True) as lines:
        answers, silent = shown(inventory, lines.connections)
    silent = {**lines.unreachable, **silent}
    if not answers:
        raise ConnectError(silent, len(inventory.nodes))
    _show(inventory, answers, silent, as_json)
    return EXIT_DONE


def release(file: Path, yes: bool, as_json: bool) -> int:
    """End the lock of whoever holds it, on every node that answers. Raises ConnectError, PhaseError."""
    inventory = load(file)
    if not yes and not console.can_ask():
        console.complain("release takes the lock from its holder: add --yes where nobody can be asked")
        return EXIT_USAGE
    with fleet.connect(inventory, tolerant=True) as lines:
        answers, silent = shown(inventory, lines.connections)
        silent = {**lines.unreachable, **silent}
        if not answers:
            raise ConnectError(silent, len(inventory.nodes))
        live = {name: answer for name, answer in answers.items() if answer.live}
        if live and not yes and not _is_meant(inventory, live):
            return EXIT_NO
        silent |= _release(inventory, lines, live)
    if as_json:
        console.emit({"event": "released" if live else "nothing_to_do", "nodes": sorted(live)})
    elif live:
        console.say(f"released on {', '.join(live)}: what its holder still does there is refused from now on")
    else:
        console.say("nothing to do: nobody holds the lock")
    if live and silent:
        raise PhaseError("Release the lock", silent, len(inventory.nodes), REMEDY)
    return EXIT_DONE


def _is_meant(inventory: Inventory, live: Mapping[str, Answer]) -> bool:
    _show(inventory, live, {}, as_json=False)
    return console.confirm("Take the lock from its holder?")


def _release(inventory: Inventory, lines: fleet.Fleet, live: Mapping[str, Answer]) -> dict[str, str]:
    """{node: why it could not be told}. Of this lease alone: another's, taken meanwhile, stays."""
    doors = fences(inventory, live)

    def tell(name: str) -> Answer:
        state = live[name].live
        assert state is not None
        words = doors[name].release_by_force(state.epoch, state.token)
        return ask(lines.connections[name], words, SHOW_TIMEOUT, doors[name].script)

    answers = on_all({name: name for name in live}, tell)
    return {name: str(answer) for name, answer in answers.items() if isinstance(answer, ConnectionLost)}


def _show(
    inventory: Inventory, answers: Mapping[str, Answer], silent: Mapping[str, str], as_json: bool
) -> None:
    names = [node.name for node in inventory.nodes]
    if as_json:
        for name in names:
            known = _json(answers[name]) if name in answers else {"lock": "unknown", "why": silent.get(name)}
            if name in answers or name in silent:
                console.emit({"event": "lock", "node": name, **known})
        return
    console.table(COLUMNS, [_row(name, answers[name]) for name in names if name in answers])
    for name in names:
        if name in silent:
            console.say(f"{name}  {silent[name].splitlines()[0]}")


def _row(name: str, answer: Answer) -> tuple[str, ...]:
    state = answer.live
    if state is None:
        return (name, condition(answer), str(answer.state.epoch if answer.state else 0), *[""] * 5)
    words = dict(described(state, answer.now))
    rest = (words[key] for key in ("command", "since", "last heard", "expires"))
    return (name, "held", str(state.epoch), state.holder.who, *rest)


def _json(answer: Answer) -> dict[str, Any]:
    state, live = answer.state, answer.live
    found: dict[str, Any] = {"lock": condition(answer), "epoch": state.epoch if state else 0}
    if live is not None:
        found |= {
            "holder": live.holder.who,
            "command": live.holder.command,
            "pid": live.holder.pid,
            "since": live.holder.since,
            "seconds_silent": round(live.seconds_silent(answer.now), 2),
            "seconds_left": round(live.seconds_left(answer.now), 2),
        }
    return found
