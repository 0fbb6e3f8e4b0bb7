"""The environment that Ray's and vLLM's processes really have, against the plan, variable by variable. Pure.

/proc shows what a process was started with. What vLLM's executors copy into a worker later (all that is unset
there since 0.21, before that over what is set) is not in it, but in NCCL's own log, which therefore wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cluster.choice import Choice, choose, expected_environment
from cluster.errors import Problem
from cluster.facts import Facts
from cluster.plan import Member, Plan
from cluster.proof.attestation import Attestation, Process
from cluster.proof.compared import Node
from cluster.proof.differences import differences

# {node: {pid: {name: value}}}: what NCCL said in its log that the environment set.
Said = Mapping[str, Mapping[int, Mapping[str, str]]]
# Ray and vLLM give each process values of its own.
THEIR_OWN = frozenset({"CUDA_VISIBLE_DEVICES", "PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "PATH"})


def environment_problems(
    plan: Plan, facts: Mapping[str, Facts], attested: Mapping[str, Attestation], said: Said
) -> tuple[Problem, ...]:
    """One problem for each variable of a node that differs from the plan, however many processes have it."""
    choices = choose(plan, facts)
    of_head = _planned(plan.head, choices, attested.get(plan.head.name))
    found: list[Problem] = []
    for member in plan.members:
        if member.name in attested:
            attestation = attested[member.name]
            planned = _planned(member, choices, attestation)
            processes = tuple(
                _as_nccl_says(process, said.get(member.name, {})) for process in attestation.processes
            )
            expected = {name: value for name, value in planned.items() if _compared(name, attestation)}
            found += differences(Node(plan, member, facts.get(member.name), expected, processes, of_head))
    return tuple(found)


def _planned(
    member: Member, choices: Mapping[str, Choice], attestation: Attestation | None
) -> dict[str, str]:
    """What was chosen is what lay on the node when its processes started: a port may be down since."""
    choice = choices.get(member.name, Choice(member.interface))
    if attestation is not None:
        choice = replace(choice, env=attestation.network_env or {})
    return expected_environment(member, choice)


def _compared(name: str, attestation: Attestation) -> bool:
    return name in attestation.names and name not in THEIR_OWN


def _as_nccl_says(process: Process, said: Mapping[int, Mapping[str, str]]) -> Process:
    if process.pid not in said or process.environment is None:
        return process
    return replace(process, environment={**process.environment, **said[process.pid]})
