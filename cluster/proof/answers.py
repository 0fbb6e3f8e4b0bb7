"""What on_node/collectives.py answered, understood. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, TypeAdapter

from cluster.plan import Plan
from cluster.proof.answer import understood
from cluster.proof.attestation import Log
from cluster.steps import Outcome

State = Literal["done", "failed", "died", "hung", ""]
SweepEnd = Literal["largest", "time", "memory", ""]


@dataclass(frozen=True)
class RankEnd:
    """How a rank ended. `steps` counts the stages that it entered, the same ones for all ranks.

    `missing` are ranks that it waited for and that never came; `process` is the kernel's letter for the state
    of one that hung.
    """

    rank: NonNegativeInt
    state: State
    stage: str
    steps: NonNegativeInt
    error: str = ""
    missing: tuple[NonNegativeInt, ...] = ()
    process: str = ""


@dataclass(frozen=True)
class Size:
    """One size of the all-reduce sweep: seconds for one of `bytes` on every rank."""

    bytes: PositiveInt
    seconds: PositiveFloat
    iterations: PositiveInt


@dataclass(frozen=True)
class Transfer:
    """One message from a rank to another, while the other sent as much back (pairs) or on (stages)."""

    src: NonNegativeInt
    dst: NonNegativeInt
    bytes: PositiveInt
    seconds: PositiveFloat


@dataclass(frozen=True)
class Answer:
    """One node's answer. `error` is what ended all of it before its time, `sweep_end` why there is no larger
    size: a larger one would have taken too long, or there was not the memory for it.
    """

    node_rank: NonNegativeInt
    backend: Literal["nccl", "gloo"]
    torch: str
    seconds: float
    error: str
    ranks: tuple[RankEnd, ...]
    sweep: tuple[Size, ...]
    stages: tuple[Transfer, ...]
    pairs: tuple[Transfer, ...]
    logs: tuple[Log, ...]
    sweep_end: SweepEnd = ""


READER = TypeAdapter(Answer)


def parse(outcome: Outcome) -> Answer | str:
    """What a node answered, or why there is no answer. Never raises."""
    return understood(outcome, READER, "collectives.py")


@dataclass(frozen=True)
class Heard:
    """What all nodes answered: {node: answer}, and {node: why there is none}, in order of node rank."""

    plan: Plan
    answers: Mapping[str, Answer]
    unheard: Mapping[str, str]

    @property
    def ranks(self) -> tuple[RankEnd, ...]:
        return tuple(rank for answer in self.answers.values() for rank in answer.ranks)

    def node_of(self, rank: int) -> str:
        """The node that a rank runs on: ranks are counted over the nodes in order of node rank."""
        for member in self.plan.members:
            if rank < member.node.gpus:
                return member.name
            rank -= member.node.gpus
        return self.plan.members[-1].name


def heard(plan: Plan, outcomes: Mapping[str, Outcome]) -> Heard:
    """Every node's outcome, understood."""
    parsed = {member.name: parse(outcomes.get(member.name, "it was not asked")) for member in plan.members}
    return Heard(
        plan,
        {name: one for name, one in parsed.items() if isinstance(one, Answer)},
        {name: one for name, one in parsed.items() if isinstance(one, str)},
    )
