"""`clusterctl drill`: what is broken is found and healed, and nothing is broken where nothing may be."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fakes import FakeFleet, Outcome
from samples import GOOD

from cluster.drilling.breaking import CUT
from cluster.errors import ConnectionLost, PhaseError
from cluster.plan import Plan
from cluster.steps import Argv, Result

Clusterctl = Callable[..., Outcome]
QUICK = (
    f"{GOOD.replace('serve: {', 'serve: {ready_timeout: 1, ')}watch: {{interval: 0.02, wedged_after: 1}}\n"
)
METRICS = "vllm:generation_tokens_total 7.0\nvllm:num_requests_running 0.0\n"
SCRAPE = Result(0, json.dumps({"health": 200, "metrics": METRICS, "reason": ""}) + "\n", "")
DEAD = Result(0, '{"health": 503, "metrics": null, "reason": "EngineDeadError"}\n', "")
ANSWER = Result(0, '{"status": 200, "seconds": 0.1, "reason": ""}\n', "")


def killed(fleet: FakeFleet, node: str) -> Callable[[Argv], Result | None]:
    """`docker kill` there ends the container; the head answers who asks for a token."""

    def special(argv: Argv) -> Result | None:
        if argv[:2] == ("docker", "kill"):
            role = argv[2].rpartition("-")[2]
            fleet.nodes[node].containers[f"{role}-{node}"]["State"] |= {"Running": False, "ExitCode": 137}
            return Result(0, argv[2], "")
        return ANSWER if "--ask" in argv else None

    return special


def all_run(fleet: FakeFleet) -> bool:
    found = {
        name: c["State"]["Running"] for node in fleet.nodes.values() for name, c in node.containers.items()
    }
    return found == dict.fromkeys(("ray-gpu-01", "serve-gpu-01", "ray-gpu-02"), True)


@pytest.fixture
def serving(fleet: FakeFleet, clusterctl: Clusterctl, monkeypatch: pytest.MonkeyPatch) -> FakeFleet:
    """Two nodes that serve; a request is answered while all containers run, without any network."""
    fleet.write(QUICK)
    assert clusterctl("up").code == 0
    fleet.facts = {"gpu-01": {"scrape": SCRAPE}}
    for name, node in fleet.nodes.items():
        node.special = killed(fleet, name)

    def from_here(_: Callable[[], Plan], __: dict[str, str]) -> Callable[[], str]:
        return lambda: "" if all_run(fleet) else "Connection refused"

    monkeypatch.setattr("cluster.commands.drill.from_here", from_here)
    monkeypatch.setattr("cluster.requesting.RATE", 200.0)
    fleet.steps()
    return fleet


def events(outcome: Outcome, kind: str) -> list[dict[str, Any]]:
    return [event for event in outcome.events if event["event"] == kind]


@pytest.mark.parametrize(
    ("kill", "node", "name"),
    [("worker", "gpu-02", "ray"), ("head", "gpu-01", "ray"), ("server", "gpu-01", "serve")],
)
def test_what_was_killed_is_found_and_healed(
    serving: FakeFleet, clusterctl: Clusterctl, kill: str, node: str, name: str
) -> None:
    outcome = clusterctl("drill", "--kill", kill, "--yes", "--json")
    assert outcome.code == 0, outcome.err
    (drill,) = events(outcome, "drill")
    assert (drill["kill"], drill["node"], drill["serves"], drill["healing"]) == (kill, node, True, "")
    assert drill["found"].startswith(f"dead: {node}: ")
    assert 0 <= drill["seconds_to_detect"] <= drill["seconds_to_serve_again"]
    asked = drill["requests"]
    assert asked["sent"] == asked["answered"] + asked["lost"]
    assert asked["answered"] >= 6
    assert asked["why"] == (["Connection refused"] if asked["lost"] else [])
    assert events(outcome, "healed")
    assert all_run(serving)
    assert serving.steps()[node].count(f"{node}  docker kill clusterctl-demo-{name}") == 1


def test_what_cannot_be_healed_is_said(
    serving: FakeFleet, clusterctl: Clusterctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def heal(*_: object) -> int:
        raise PhaseError("Heal", {"gpu-02": "no spare can take its place"}, 2, "Add one.")

    monkeypatch.setattr("cluster.commands.heal.heal", heal)
    monkeypatch.setattr("cluster.commands.drill.LONGEST", 0.1)
    outcome = clusterctl("drill", "--kill", "worker", "--yes", "--json")
    assert outcome.code == 7
    (drill,) = events(outcome, "drill")
    assert not drill["serves"]
    assert "no spare can take its place" in drill["healing"]
    assert not all_run(serving)


def test_what_cannot_be_healed_yet_is_healed_once_the_link_is_back(
    serving: FakeFleet, clusterctl: Clusterctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the worker there is no spare, and no majority for the lock; the engine has died meanwhile."""
    head, worker, scrape = serving.nodes["gpu-01"], serving.nodes["gpu-02"], serving.facts["gpu-01"]
    run, said = worker.run, list[str]()

    def lost(*_: object, **__: object) -> Result:
        raise ConnectionLost("no route to host")

    def armed(argv: Argv) -> Result | None:
        return Result(0, "", "") if argv[:3] == ("sh", "-c", CUT) else None

    def started(argv: Argv) -> Result | None:
        if argv[2:] == ("serve",):
            scrape["scrape"] = SCRAPE
        return ANSWER if "--ask" in argv else None

    def say(text: str) -> None:
        said.append(text)
        if text.startswith("broken: "):  # the lock was given back in the seconds before
            scrape["scrape"], worker.unreachable = DEAD, "no route to host"
            monkeypatch.setattr(worker, "run", lost)
        elif text.startswith("not healed yet"):
            worker.unreachable = ""
            monkeypatch.setattr(worker, "run", run)

    worker.special, head.special = armed, started
    monkeypatch.setattr("cluster.drilling.breaking.LEAD", 0.0)
    monkeypatch.setattr("cluster.console.say", say)
    monkeypatch.setattr(
        "cluster.commands.drill.from_here", lambda *_: lambda: "" if scrape["scrape"] == SCRAPE else "500"
    )
    assert clusterctl("drill", "--kill", "link", "--for", "10", "--yes").code == 0, said
    assert sum(text.startswith("not healed yet: ") for text in said) == 1
    assert next(text for text in said if text.startswith("noticed after")).endswith("/health answers 503")
    assert any(text.startswith("served again after") for text in said)


def touched(fleet: FakeFleet) -> list[str]:
    return [
        step for node in fleet.nodes.values() for step in node.steps if " kill " in step or " ip " in step
    ]


def test_what_does_not_serve_is_not_broken(fleet: FakeFleet, clusterctl: Clusterctl) -> None:
    outcome = clusterctl("drill", "--kill", "worker", "--yes")
    assert outcome.code == 5
    assert "demo does not serve, so nothing was broken: it is down" in outcome.err
    assert touched(fleet) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--kill", "worker"), "drill breaks a serving model: add --yes where nobody can be asked"),
        (("--kill", "worker", "--node", "gpu-01", "--yes"), "no worker to break there, but on gpu-02"),
        (("--kill", "disk"), "Invalid value for '--kill'"),
        ((), "Missing option '--kill'"),
    ],
)
def test_usage(fleet: FakeFleet, clusterctl: Clusterctl, words: tuple[str, ...], said: str) -> None:
    outcome = clusterctl("drill", *words)
    assert outcome.code == 2
    assert said in outcome.err
    assert touched(fleet) == []


def test_who_says_no_breaks_nothing(
    clusterctl: Clusterctl, fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("cluster.console.confirm", lambda _: False)
    assert clusterctl("drill", "--kill", "worker").code == 1  # as with `down`, `restart` and `rollback`
    assert not any(fleet.steps().values())
