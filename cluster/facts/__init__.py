"""What a node says about itself: each fact is a command and a pure parser, side by side.

One script with all commands goes out per node, and its sections come back: one round trip.
Parsers never raise: what they do not understand is an absent fact.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from cluster.facts import containers, node, processes
from cluster.facts.types import Answer, Container, Fact, Facts, RayNode, Versions
from cluster.plan import Member, Plan
from cluster.steps import Result

__all__ = [
    "Answer",
    "Container",
    "Fact",
    "Facts",
    "RayNode",
    "Versions",
    "facts_of",
    "read_facts",
    "script_of",
    "what_is_ours",
]

LONGEST = 30
BEGIN, END = "=== clusterctl fact ", "=== clusterctl exit "


def facts_of(plan: Plan, member: Member) -> tuple[Fact, ...]:
    """The facts that matter to a member of a plan."""
    return (
        *what_is_ours(plan, member),
        *_engine(plan).can(plan, member),
        Fact("gpus", "nvidia-smi --query-gpu=name --format=csv,noheader", node.parse_gpus),
        Fact("hcas", "ls /sys/class/infiniband", node.parse_hcas),
        Fact("interfaces", "ip -o -4 addr show", node.parse_interfaces),
        Fact("listening", "cat /proc/net/tcp /proc/net/tcp6", node.parse_listening),
        *_engine(plan).serves(plan, member),
    )


def what_is_ours(plan: Plan, member: Member) -> tuple[Fact, ...]:
    """The facts that taking down needs, and no more: what a broken driver cannot hold up."""
    files = "find . -type f ! -path './processes/*' -exec sha256sum {} +"
    return (
        *_engine(plan).has(plan, member),
        Fact("files", f'cd "$HOME"/{shlex.quote(member.folder)} && {files}', node.parse_files),
    )


def _engine(plan: Plan) -> ModuleType:
    return processes if plan.runtime.engine == "process" else containers


def script_of(facts: tuple[Fact, ...]) -> str:
    """One sh script that runs all commands and marks where each begins and how it ended.

    A command that hangs (a wedged driver, a frozen engine) ends after LONGEST seconds; the others go on.
    """
    sections = [
        f"printf '\\n%s\\n' {shlex.quote(BEGIN + fact.name)}\n"
        f"timeout -k 5 {LONGEST} sh -c {shlex.quote(fact.command)} </dev/null 2>&1\n"
        f"printf '\\n%s%s\\n' {shlex.quote(END)} $?"
        for fact in facts
    ]
    return "LC_ALL=C; export LC_ALL\n" + "\n".join(sections) + "\n"


def read_facts(facts: tuple[Fact, ...], output: str) -> Facts:
    """The facts in a script's output; a section that is cut off is absent."""
    sections = dict(_sections(output))
    values: dict[str, Any] = {}
    for fact in facts:
        if fact.name in sections:
            values |= fact.parse(sections[fact.name])
    return Facts(**values)


def _sections(output: str) -> Iterator[tuple[str, Result]]:
    for part in output.split("\n" + BEGIN)[1:]:
        name, _, rest = part.partition("\n")
        body, _, code = rest.rpartition("\n" + END)
        exit_code = re.match(r"([0-9]{1,3})\s*(\n|$)", code)
        if exit_code:
            yield name, Result(int(exit_code[1]), body, "")
