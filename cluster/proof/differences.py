"""What of a node's processes is not as planned: variables that lack, differ, or that no one planned. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from cluster.errors import Problem
from cluster.proof.attestation import Kind, Process
from cluster.proof.compared import Node, named, problem_of, shown

UNPLANNED = re.compile(r"(NCCL|GLOO|TP_SOCKET)_")
# NCCL's log shows what /etc/nccl.conf sets too. These vLLM leaves alone; others it sets by itself.
UNPLANNED_IN_LOG = re.compile(r"NCCL_(IB|NET|SOCKET)(_|$)")
# vLLM sets some of NCCL's variables for the processes that it starts itself.
STARTED_BY_US: tuple[Kind, ...] = ("ray", "server")
# Images of NVIDIA say with NCCL_VERSION what is installed; NCCL reads no such variable.
HARMLESS = frozenset({"NCCL_VERSION"})
LOG_FILE = "NCCL_DEBUG_FILE"


def differences(node: Node) -> Iterator[Problem]:
    readable = tuple(process for process in node.processes if process.environment is not None)
    if not readable:
        yield _nothing_to_compare(node)
        return
    yield from _missing(node, readable)
    for name, value in node.expected.items():
        yield from _overwritten(node, name, value)
    yield from _unplanned(node)


def _nothing_to_compare(node: Node) -> Problem:
    found = "no process of Ray or vLLM was found"
    if node.processes:
        found = f"{named(node.processes)} show no environment: their titles lie over it"
    return Problem(
        "env-unread",
        node.member.name,
        found,
        "the environment of Ray's and vLLM's processes",
        "Run `clusterctl down` and `clusterctl up`, which keeps the environment readable (SPT_NOENV)",
    )


# --- missing --------------------------------------------------------------------------------------


def _missing(node: Node, readable: tuple[Process, ...]) -> Iterator[Problem]:
    """One for each variable; for processes that have no variable of the plan at all, one in all."""
    bare = tuple(one for one in readable if len(node.expected) > 1 and not _planned_ones(node, one))
    if bare:
        yield problem_of(node, "env-missing", "every variable of the plan", bare, "is missing", "as rendered")
    for name, expected in _wanted(node).items():
        lacking = tuple(one for one in readable if one not in bare and name not in (one.environment or {}))
        if lacking:
            yield problem_of(node, "env-missing", name, lacking, "is missing", expected)


def _planned_ones(node: Node, process: Process) -> set[str]:
    return set(node.expected) & set(process.environment or {})


def _wanted(node: Node) -> dict[str, str]:
    """What is to be there, in words."""
    log_file = {LOG_FILE: "a file (serve.nccl_debug)"} if node.plan.keeps_nccl_logs(node.member) else {}
    return {name: shown(name, value) for name, value in node.expected.items()} | log_file


# --- overwritten ----------------------------------------------------------------------------------


def _overwritten(node: Node, name: str, expected: str) -> Iterator[Problem]:
    wrong = defaultdict(list)
    for process in node.processes:
        value = (process.environment or {}).get(name)
        if value is not None and not _same(value, expected):
            wrong[value].append(process)
    if wrong:
        value = next(iter(wrong))
        processes = tuple(process for one in wrong.values() for process in one)
        values = " and ".join(shown(name, one) for one in wrong)
        whose = ", the head's value," if _is_heads(node, name, value) else ""
        yield problem_of(
            node, "env-overwritten", name, processes, f"is {values}{whose}", shown(name, expected), value
        )


def _same(value: str, expected: str) -> bool:
    """NCCL's log prints numbers as it understood them: `0x10` as 16."""
    if value == expected:
        return True
    try:
        return int(value, 0) == int(expected, 0)
    except ValueError:
        return False


def _is_heads(node: Node, name: str, value: str) -> bool:
    return node.member != node.plan.head and node.of_head.get(name) == value


# --- unplanned ------------------------------------------------------------------------------------


def _unplanned(node: Node) -> Iterator[Problem]:
    planned = {
        *node.expected,
        *dict(node.member.env),
        *dict(node.member.interface_variables),
        LOG_FILE,
        *HARMLESS,
    }
    having: dict[str, list[Process]] = defaultdict(list)
    for process in node.processes:
        telling = UNPLANNED if process.kind in STARTED_BY_US else UNPLANNED_IN_LOG
        for name in process.environment or {}:
            if telling.match(name) and name not in planned:
                having[name].append(process)
    for name, processes in having.items():
        value = (processes[0].environment or {})[name]
        yield problem_of(
            node,
            "env-unplanned",
            name,
            tuple(processes),
            f"is {shown(name, value)}",
            "not set: no one planned it",
            value,
        )
