"""What a node says about itself: each fact is a command and a pure parser, side by side.

One script with all commands goes out per node, and its sections come back: one round trip.
Parsers never raise: what they do not understand is an absent fact.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

from cluster import records
from cluster.facts import containers, gpu, node, processes, rdma, service, system
from cluster.facts.types import LONGEST, Answer, Container, Fact, Facts, RayNode, Scrape, Versions
from cluster.plan import Member, Plan
from cluster.steps import Argv, Result

__all__ = [
    "Answer",
    "Container",
    "Fact",
    "Facts",
    "RayNode",
    "Scrape",
    "Versions",
    "facts_of",
    "one_token",
    "read_facts",
    "script_of",
    "what_is_ours",
    "what_lives",
    "what_restarts",
]

# What `up --ignore` writes on a node, so that whoever comes later knows.
IGNORED = "ignored"
BEGIN, END = "=== clusterctl fact ", "=== clusterctl exit "


def facts_of(plan: Plan, member: Member, hashing: bool = True) -> tuple[Fact, ...]:
    """All that matters to a member of a plan; without `hashing` the model's files are only listed."""
    cuda = plan.runtime.device == "cuda"
    return (
        Fact("clock_began", system.CLOCK, system.parse_clock_began, quick=True),
        *what_is_ours(plan, member),
        _ignored(member),
        *_engine(plan).can(plan, member, hashing),
        Fact("system", system.SYSTEM, system.parse_system),
        *((*gpu.facts(), *rdma.facts()) if cuda else ()),
        Fact("interfaces", node.INTERFACES, node.parse_interfaces, quick=True),
        Fact("listening", node.LISTENING, node.parse_listening, quick=True),
        *_engine(plan).serves(plan, member),
        Fact("clock_ended", system.CLOCK, system.parse_clock_ended, quick=True),
    )


def without_hashes(plan: Plan, member: Member) -> tuple[Fact, ...]:
    """As facts_of, but quick: the contents of the model's files stay unread."""
    return facts_of(plan, member, hashing=False)


def what_restarts(plan: Plan, member: Member) -> tuple[Fact, ...]:
    """As without_hashes, and no completion is waited for: what is restarted answers when it is up again."""
    unasked = ("answer", "kv_cache", "last_words")
    return tuple(fact for fact in without_hashes(plan, member) if fact.name not in unasked)


def what_serves(plan: Plan, member: Member) -> tuple[Fact, ...]:
    """The facts that a status needs: what runs, what it answers, and what vLLM should make of the GPUs."""
    return (
        *what_is_ours(plan, member),
        _ignored(member),
        *(gpu.memory() if plan.runtime.device == "cuda" else ()),
        *_engine(plan).knows_model(plan, member),
        *_engine(plan).serves(plan, member),
    )


def what_lives(plan: Plan, member: Member, asked: str) -> tuple[Fact, ...]:
    """The facts that `watch` asks for again and again; `asked` names the node that looks at the server.

    That is the head, or another member where the head cannot be reached.
    """
    current = f'cat "$HOME"/{shlex.quote(records.folder(member.cluster, member.name))}/current'
    return (
        # Each of the engine's clients takes some 50 ms of a core, and `ids` says as well that none answers.
        *(fact for fact in _engine(plan).has(plan, member) if fact.name != "engine"),
        Fact("wanted", current, service.parse_wanted, quick=True),
        *((_engine(plan).scrape(plan, member),) if member.name == asked else ()),
    )


def one_token(plan: Plan, wait: float) -> Argv:
    """Has the model answer with one token, on the head; waits at most `wait` seconds for it."""
    words = ("--ask", plan.served_name, "--wait", f"{wait:g}")
    argv: Argv = _engine(plan).observe(plan, plan.head, *words)
    # Before Docker 23 `exec` may hang for ever where its container ends beside it (moby#44892).
    return ("timeout", "-k", "5", f"{wait + LONGEST:g}", *argv)


def what_may_drift(plan: Plan, member: Member) -> tuple[Fact, ...]:
    """What of a node that serves is noted, and compared later: its containers, its boot, its GPUs."""
    return (
        *_engine(plan).has(plan, member),
        Fact("system", system.SYSTEM, system.parse_system),
        *(gpu.memory() if plan.runtime.device == "cuda" else ()),
    )


def what_is_ours(plan: Plan, member: Member) -> tuple[Fact, ...]:
    """The facts that taking down needs, and no more: what a broken driver cannot hold up."""
    files = "find . -type f ! -path './processes/*' -exec sha256sum {} +"
    return (
        *_engine(plan).has(plan, member),
        Fact("files", f'cd "$HOME"/{shlex.quote(member.folder)} && {files}', node.parse_files, quick=True),
    )


def _ignored(member: Member) -> Fact:
    command = f'cat "$HOME"/{shlex.quote(f"{member.folder}/{IGNORED}")}'
    return Fact("ignored", command, node.parse_ignored, quick=True)


def _engine(plan: Plan) -> ModuleType:
    return processes if plan.runtime.engine == "process" else containers


def script_of(facts: tuple[Fact, ...]) -> str:
    """One sh script that runs all commands and marks where each begins and how it ended.

    A command that hangs (a wedged driver, a frozen engine) ends after LONGEST seconds; the others go on.
    """
    return "LC_ALL=C; export LC_ALL\n" + "\n".join(_section(fact) for fact in facts) + "\n"


def _section(fact: Fact) -> str:
    run = f"timeout -k 5 {LONGEST} sh -c {shlex.quote(fact.command)} </dev/null 2>&1"
    if fact.quick:
        run = f"(\n{fact.command}\n) </dev/null 2>&1"
    if fact.needs:
        run = f'if [ -n "${fact.needs}" ]; then {run}; fi'
    if fact.variable:
        name = fact.variable
        keep = f"printf '%s\\n' \"${name}\"; [ $code = 0 ] || {name}=; export {name}"
        run = f"{name}=$({run}); code=$?\n{keep}; (exit $code)"
    return (
        f"printf '\\n%s\\n' {shlex.quote(BEGIN + fact.name)}\n"
        f"{run}\n"
        f"printf '\\n%s%s\\n' {shlex.quote(END)} $?"
    )


def is_whole(facts: tuple[Fact, ...], output: str) -> bool:
    """Whether a script's output goes up to its last section."""
    return facts[-1].name in dict(_sections(output))


def read_facts(facts: tuple[Fact, ...], output: str) -> Facts:
    """The facts in a script's output; a section that is cut off is absent."""
    sections = dict(_sections(output))
    values: dict[str, Any] = {}
    for fact in facts:
        if fact.name in sections:
            values |= fact.parse(sections[fact.name])
    return Facts(**values)


def with_clock_offset(facts: Facts, asked: float, answered: float) -> Facts:
    """The facts of one round trip; `asked` and `answered` by the operator's clock, in seconds since 1970."""
    if facts.clock_began is None or facts.clock_ended is None:
        return facts
    offset, uncertainty = system.clock_offset(asked, answered, facts.clock_began, facts.clock_ended)
    return replace(facts, clock_offset=offset, clock_uncertainty=uncertainty)


def _sections(output: str) -> Iterator[tuple[str, Result]]:
    for part in output.split("\n" + BEGIN)[1:]:
        name, _, rest = part.partition("\n")
        body, _, code = rest.rpartition("\n" + END)
        exit_code = re.match(r"([0-9]{1,3})\s*(\n|$)", code)
        if exit_code:
            yield name, Result(int(exit_code[1]), body, "")
