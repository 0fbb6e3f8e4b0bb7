"""`clusterctl check`: what would stop `up`, before it is tried."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from cluster import console, fleet
from cluster.checks.ids import IDS, unknown
from cluster.doctor.redact import redacted
from cluster.errors import EXIT_DONE, ConnectError, PreflightError, UsageError, Verdict, count
from cluster.facts import Facts, summary
from cluster.inventory import load
from cluster.network import columns_and_rows
from cluster.plan import Plan, but_for, make_plan, with_others
from cluster.played import played_now
from cluster.standing import SECRETS
from cluster.survey import Survey, survey


def check(file: Path, quick: bool, ignore: tuple[str, ...], as_json: bool) -> int:
    """Read-only. Exit code 0 if nothing stops `up`, 5 if something does, 4 if a member cannot be reached.

    Spares are looked at as if they were members; what is wrong with one is a warning. Raises ClusterctlError.
    """
    known_ids(ignore)
    inventory = load(file)
    with fleet.connect(inventory, tolerant=True) as lines:
        now, roster = played_now(inventory, lines)
        plan = make_plan(now)
        playing = {member.name for member in plan.members}
        idle = [name for name, _ in roster.quarantined if name not in playing]
        whole = but_for(with_others(inventory, plan), idle)
        found = survey(whole, lines, quick)
    own = found.of(plan)
    spares = {member.name for member in whole.members} - playing
    verdict = with_spares(own.verdict(ignore), found.verdict(ignore), spares)
    if as_json:
        console.emit(to_json(found, verdict))
    else:
        _show(plan, found, verdict)
    if own.unreachable:
        return ConnectError.exit_code
    return PreflightError.exit_code if verdict.errors else EXIT_DONE


def with_spares(own: Verdict, whole: Verdict, spares: Collection[str]) -> Verdict:
    """The verdict of the members, and all that is wrong with spares as warnings: they stop nothing."""
    found = (*whole.errors, *whole.warnings)
    others = tuple(replace(p, severity="warning") for p in found if p.node in spares)
    return Verdict(own.errors, (*own.warnings, *others), own.ignored)


def known_ids(ids: tuple[str, ...]) -> None:
    """Raises UsageError for an id that no check has: a typing error would ignore nothing, and say nothing."""
    for id_ in ids:
        if id_.startswith("ssh-"):
            raise UsageError(f"--ignore {id_}: a node that cannot be reached cannot be passed over")
    for wrong in unknown(ids):
        close = get_close_matches(wrong, IDS, n=1, cutoff=0.4)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(
            f"--ignore {wrong}: no check has this id{meant}\nThere are: {', '.join(sorted(IDS))}"
        )


def to_json(found: Survey, verdict: Verdict) -> dict[str, Any]:
    """The survey for programs."""
    from pydantic_core import to_jsonable_python

    content: dict[str, Any] = to_jsonable_python(
        {
            "ok": not verdict.errors,
            "problems": [console.problem_json(p) for p in (*verdict.errors, *verdict.warnings)],
            "ignored": [console.problem_json(p) for p in verdict.ignored],
            "unreachable": dict(found.unreachable),
            "network": found.matrix,
            "facts": {name: _without_secrets(fact) for name, fact in found.facts.items()},
        }
    )
    return content


def _without_secrets(facts: Facts) -> Facts:
    files = {path: digest for path, digest in facts.files.items() if path != SECRETS}
    return replace(facts, files=files, last_words=redacted(facts.last_words))


def _show(plan: Plan, found: Survey, verdict: Verdict) -> None:
    console.table(*summary.columns_and_rows(found.plan, found.facts))
    if found.matrix is not None and found.matrix.links:
        console.say("")
        console.table(*columns_and_rows(found.matrix))
    console.say("")
    console.problems(verdict)
    console.say(_summary(plan, found, verdict))


def _summary(plan: Plan, found: Survey, verdict: Verdict) -> str:
    counted = [
        count(len(problems), noun)
        for noun, problems in (("error", verdict.errors), ("warning", verdict.warnings))
        if problems
    ]
    ignored = f", {len(verdict.ignored)} ignored" if verdict.ignored else ""
    nodes = count(len(plan.members), "node")
    if spares := len(found.plan.members) - len(plan.members):
        nodes = f"{nodes} and {count(spares, 'spare')}"
    end = "`clusterctl up` would stop here" if verdict.errors else "nothing stops `clusterctl up`"
    return f"{nodes}: {' and '.join(counted) or 'no problems'}{ignored}; {end}"
