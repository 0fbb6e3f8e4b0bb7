"""`clusterctl heal`: a cluster that should serve and does not, serves again.

What is wrong is found out first, and nothing is done where nothing is; then evidence is kept, nodes that are
gone fall out and spares take their places, and all ranks are started again together.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster import console, fleet
from cluster.commands.deployment import Prepared
from cluster.commands.healing import Healing, look
from cluster.errors import EXIT_DONE, EXIT_NO, ConnectError
from cluster.facts.service import parse_answer
from cluster.healing import roster
from cluster.healing.causes import Cause, Nothing
from cluster.healing.policy import GiveUp, RestartNow, WaitFirst, decide
from cluster.inventory import load
from cluster.liveness import Liveness
from cluster.operation import looking, operation, read_records
from cluster.steps import Result

State = Literal["nothing", "healed", "waiting", "given up"]


@dataclass(frozen=True)
class Healed:
    """What came of it, and why. `seconds`: until the next attempt is due, where it waits.

    `serves`: whether the model answers now, as far as this knows.
    """

    state: State
    why: str
    seconds: float = 0.0
    serves: bool = False


def heal(file: Path, as_json: bool, why: Liveness | None = None) -> int:
    """Heal at once, as a person asked for it. 0: it serves, or is starting; 1: nothing is there to be healed.

    Raises ClusterctlError; PhaseError where it could not be healed, for want of a spare too.
    """
    done = _heal(file, as_json, _reasons(why), at_once=True)
    return EXIT_DONE if done.serves else EXIT_NO


def heal_watched(file: Path, as_json: bool, why: Liveness) -> Healed:
    """Heal as `watch --heal` does: at most `heal.max_restarts` times within `heal.within` seconds, each pause
    twice the one before. What is waited for, or given up, leaves the cluster untouched.

    Raises what `heal` does.
    """
    return _heal(file, as_json, _reasons(why), at_once=False)


def _reasons(why: Liveness | None) -> tuple[str, ...]:
    return () if why is None or why.serves else (f"{why.state}: {why.why}",)


def _heal(file: Path, as_json: bool, seen: tuple[str, ...], at_once: bool) -> Healed:
    began = time.monotonic()
    inventory = load(file)
    with fleet.connect(inventory, tolerant=True) as lines:
        if not lines.connections:
            raise ConnectError(lines.unreachable, len(inventory.nodes))
        if not at_once:
            known = roster.newest(read_records(inventory, lines, (roster.PATH,)))
            later = _later(decide(inventory.heal, known.restarts, Cause(seen), time.time(), lambda *_: False))
            if later is not None:
                return later
        first = look(inventory, file, looking("heal", inventory, lines), lines, seen, as_json)
        if isinstance(first.cause, Nothing):
            return _nothing(first.cause, as_json)
        _say_cause(first.cause, as_json)
        Healing(first, first.cause, time.time()).settle()
        with operation("heal", inventory, lines) as op:
            found = first.under(op) or look(inventory, file, op, lines, seen, as_json)
            if isinstance(found.cause, Nothing):  # another command was quicker
                return _nothing(found.cause, as_json)
            healing = Healing(found, found.cause, time.time())
            prepared, last = healing.restart_all()
    _healed(prepared, healing.replaced, last, time.monotonic() - began, as_json)
    return Healed("healed", "; ".join(found.cause.why), serves=True)


def _later(decision: RestartNow | WaitFirst | GiveUp) -> Healed | None:
    if isinstance(decision, WaitFirst):
        return Healed("waiting", f"the next restart is due in {decision.seconds:.0f} s", decision.seconds)
    return Healed("given up", decision.why) if isinstance(decision, GiveUp) else None


def _nothing(cause: Nothing, as_json: bool) -> Healed:
    if as_json:
        console.emit({"event": "nothing_to_do", "why": cause.why, "serves": cause.serves})
    else:
        console.say(f"nothing to do: {cause.why}")
    return Healed("nothing", cause.why, serves=cause.serves or cause.starting)


def _say_cause(cause: Cause, as_json: bool) -> None:
    if as_json:
        console.emit({"event": "cause", "why": list(cause.why), "node": cause.blamed or None})
        return
    for sentence in cause.why:
        console.say(f"! {sentence}")


def _healed(
    prepared: Prepared, replaced: Mapping[str, str], last: Result | None, seconds: float, as_json: bool
) -> None:
    plan = prepared.target.plan
    answer = parse_answer(last)["answer"].text if last is not None else None
    if as_json:
        content = {"generation": prepared.number, "url": plan.url, "answer": answer, "replaced": replaced}
        console.emit({"event": "healed", **content, "seconds": round(seconds, 3)})
        return
    for old, new in replaced.items():
        console.say(f"{new} has the place of {old}")
    console.say(f"{plan.served_name} is serving on {plan.url}/v1 again, {seconds:.1f} s after heal began")
