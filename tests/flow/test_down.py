"""`clusterctl down`: everything of this cluster is gone, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fakes import FakeFleet, Outcome

from cluster.steps import Argv, Result

Clusterctl = Callable[..., Outcome]


def test_everything_is_gone_and_a_second_time_nothing_is_left_to_do(
    clusterctl: Clusterctl, fleet: FakeFleet
) -> None:
    clusterctl("up")
    outcome = clusterctl("down", "--yes")
    assert (outcome.code, outcome.lines[-1]) == (0, "demo is down")
    assert all(not node.containers and not node.files for node in fleet.nodes.values())
    fleet.steps()
    assert clusterctl("down", "--yes") == Outcome(0, "nothing to do: demo is down\n", "")
    assert clusterctl("down", "--yes", "--json").events == [{"event": "nothing_to_do", "cluster": "demo"}]
    assert fleet.steps() == {"gpu-01": [], "gpu-02": []}


def test_after_a_half_failed_up(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    def special(argv: Argv) -> Result | None:
        return Result(1, "", "no\n") if argv[2:] == ("serve",) else None

    fleet.nodes["gpu-01"].special = special
    assert clusterctl("up").code == 7
    assert clusterctl("down", "--yes").code == 0
    assert all(not node.containers and not node.files for node in fleet.nodes.values())


def test_in_a_pipe_nobody_can_be_asked(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    outcome = clusterctl("down")
    assert outcome == Outcome(
        2, "", "error: down stops a serving model: add --yes where nobody can be asked\n"
    )
    assert fleet.opened == []


@pytest.mark.parametrize(("answer", "code", "left"), [(True, 0, 0), (False, 1, 2)])
def test_at_a_terminal_a_person_is_asked(
    clusterctl: Clusterctl,
    fleet: FakeFleet,
    monkeypatch: pytest.MonkeyPatch,
    answer: bool,
    code: int,
    left: int,
) -> None:
    asked: list[str] = []
    clusterctl("up")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("cluster.console.confirm", lambda question: asked.append(question) or answer)
    assert clusterctl("down").code == code
    assert asked == ["Stop llama on gpu-01, gpu-02?"]
    assert len(fleet.nodes["gpu-01"].containers) == left


def test_a_node_that_cannot_be_reached_is_named_and_the_others_are_clean(
    clusterctl: Clusterctl, fleet: FakeFleet
) -> None:
    clusterctl("up")
    fleet.nodes["gpu-02"].unreachable = "nothing listens on 10.0.0.12:22: is sshd running there?"
    outcome = clusterctl("down", "--yes")
    assert outcome.code == 7
    assert outcome.err.splitlines() == [
        "error: Take down failed on 1 of 2 nodes",
        "  gpu-02  nothing listens on 10.0.0.12:22: is sshd running there?",
        "  The other nodes are clean. Run `clusterctl down` again when it answers.",
    ]
    assert not fleet.nodes["gpu-01"].containers


def test_a_node_whose_engine_does_not_answer_is_named_and_left_as_it_is(
    clusterctl: Clusterctl, fleet: FakeFleet
) -> None:
    clusterctl("up")
    fleet.steps()
    said = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock."
    silent = {"engine": Result(1, f"{said}\n", ""), "containers": Result(1, f"{said}\n", "")}
    fleet.facts = {"gpu-02": silent}
    outcome = clusterctl("down", "--yes")
    assert outcome.code == 7
    assert outcome.err.splitlines() == [
        "error: Take down failed on 1 of 2 nodes",
        f"  gpu-02  {said}",
        "  The other nodes are clean. Run `clusterctl down` again when it answers.",
    ]
    assert not fleet.nodes["gpu-01"].containers and not fleet.nodes["gpu-01"].files
    assert fleet.steps()["gpu-02"] == [] and fleet.nodes["gpu-02"].files
    fleet.facts = {}
    assert clusterctl("down", "--yes").code == 0
    assert not fleet.nodes["gpu-02"].containers


def test_a_broken_driver_holds_nothing_up(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    clusterctl("down", "--yes")
    assert fleet.nodes["gpu-01"].asked == ["engine", "ids", "containers", "files"]


@pytest.mark.parametrize("purge", [False, True])
def test_the_question_says_what_is_lost(
    clusterctl: Clusterctl, monkeypatch: pytest.MonkeyPatch, purge: bool
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("cluster.console.confirm", asked.append)
    assert clusterctl("down", *["--purge"] * purge).code == 1
    lost = ", and forget its history, its audit and who is in quarantine" if purge else ""
    assert asked == [f"Stop llama on gpu-01, gpu-02{lost}?"]
