"""A node that could not say what it has must not pass for one that has nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from samples import plan

from cluster.errors import ConnectError
from cluster.facts import Facts, what_is_ours
from cluster.gather import gather, gather_tolerantly
from cluster.steps import Argv, Result

CUT_OFF = Result(1, "\n=== clusterctl fact engine\n20.10.24\n", "sh: cannot fork\n")
WHOLE = Result(
    0,
    "".join(
        f"\n=== clusterctl fact {name}\n{said}\n=== clusterctl exit 0\n"
        for name, said in (("engine", "20.10.24\n"), ("ids", ""), ("containers", ""), ("files", ""))
    ),
    "",
)


@dataclass
class Answering:
    """A line whose node gives these answers, one after the other, to whatever it is asked."""

    answers: list[Result]
    asked: list[Argv] = field(default_factory=list)

    def run(self, argv: Argv, stdin: str | Iterable[str] = "", **_: Any) -> Result:  # noqa: ARG002
        self.asked.append(argv)
        return self.answers[len(self.asked) - 1]

    def put(self, path: str, content: str, mode: int) -> None:
        raise AssertionError((path, content, mode))

    def close(self) -> None:
        """Nothing to close."""


def lines(*answers: Result) -> dict[str, Answering]:
    return {"gpu-01": Answering([WHOLE]), "gpu-02": Answering(list(answers))}


def test_a_cut_off_answer_is_asked_for_again() -> None:
    found = lines(CUT_OFF, WHOLE)
    facts, lost = gather_tolerantly(plan(), found, what_is_ours)
    assert lost == {}
    assert facts["gpu-02"] == Facts(engine_version="20.10.24")
    assert [len(line.asked) for line in found.values()] == [1, 2]


@pytest.mark.parametrize("answer", [CUT_OFF, Result(1, "", "sh: cannot fork\n")], ids=["cut off", "empty"])
def test_a_node_that_cannot_answer_is_named(answer: Result) -> None:
    facts, lost = gather_tolerantly(plan(), lines(answer, answer), what_is_ours)
    assert list(facts) == ["gpu-01"]
    assert lost == {"gpu-02": "its answer was cut off: sh: cannot fork"}
    with pytest.raises(ConnectError, match="gpu-02  its answer was cut off: sh: cannot fork"):
        gather(plan(), lines(answer, answer), what_is_ours)
