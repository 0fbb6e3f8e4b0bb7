"""`clusterctl heal`, `restart` and `quarantine` over nodes that fail, vanish and come back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fakes import GPU, FakeFleet, Outcome
from samples import GOOD

from cluster.commands.heal import heal_watched
from cluster.liveness import Liveness
from cluster.steps import Argv, Result

Clusterctl = Callable[..., Outcome]
SPARE = "  - {name: gpu-03, address: 10.0.0.13, gpus: 2, spare: true}\n"
DEAD = Liveness("dead", "gpu-02: the ray container exited with code 137", {"gpu-02": "exited"})


@pytest.fixture
def spared(fleet: FakeFleet, clusterctl: Clusterctl) -> FakeFleet:
    """A cluster that serves on gpu-01 and gpu-02; gpu-03 stands by."""
    fleet.write(GOOD + SPARE)
    assert clusterctl("up").code == 0
    fleet.steps()
    return fleet


def stop(fleet: FakeFleet, node: str, role: str = "ray", code: int = 137) -> None:
    """The container of a role has exited."""
    fleet.nodes[node].containers[f"{role}-{node}"]["State"] |= {"Running": False, "ExitCode": code}
    if role == "ray":
        _no_answer(fleet)


def _no_answer(fleet: FakeFleet) -> None:
    """The model on gpu-01 answers nobody, until its server is another one."""
    node, serve = fleet.nodes["gpu-01"], fleet.nodes["gpu-01"].containers.get("serve-gpu-01")

    def special(argv: tuple[str, ...]) -> Result | None:
        asks = argv[-1] in ("ready", "ask")
        return Result(1, "", "timed out\n") if asks and node.containers.get("serve-gpu-01") is serve else None

    node.special = special
    fleet.facts["gpu-01"] = {"answer": Result(1, "", "timed out\n")}


def roster(fleet: FakeFleet, node: str = "gpu-01") -> dict[str, Any]:
    content = json.loads(fleet.nodes[node].kept["roster.json"])
    assert isinstance(content, dict)
    return content


def runs(fleet: FakeFleet) -> dict[str, list[str]]:
    """{node: its containers}."""
    return {name: sorted(node.containers) for name, node in fleet.nodes.items() if node.containers}


# --- heal -----------------------------------------------------------------------------------------


def test_a_healthy_cluster_is_left_alone(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    outcome = clusterctl("heal")
    assert (outcome.code, outcome.lines) == (
        0,
        ["nothing to do: llama is serving on http://10.0.0.11:8000/v1"],
    )
    assert not any(spared.steps().values())


def test_a_cluster_that_is_down_is_not_healed(fleet: FakeFleet, clusterctl: Clusterctl) -> None:
    outcome = clusterctl("heal")
    assert outcome.code == 1
    assert "`clusterctl up` starts it" in outcome.out
    assert runs(fleet) == {}


def test_after_down_it_stays_down(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    assert clusterctl("down", "--yes").code == 0
    assert clusterctl("heal").code == 1
    assert runs(spared) == {}


def test_what_was_taken_down_without_a_node_that_is_gone_stays_down(
    spared: FakeFleet, clusterctl: Clusterctl
) -> None:
    spared.nodes["gpu-02"].unreachable = "no answer within 10 s"
    assert clusterctl("down", "--yes").code == 7
    spared.facts.clear()
    outcome = clusterctl("heal")
    assert outcome.code == 1, outcome.err
    spared.nodes["gpu-02"].unreachable = ""
    stop(spared, "gpu-02")
    spared.nodes["gpu-02"].special = lambda _: None
    outcome = clusterctl("heal")
    assert (outcome.code, outcome.lines) == (
        1,
        ["nothing to do: it was taken down; what is left of it `clusterctl down` removes"],
    )
    assert list(runs(spared)) == ["gpu-02"]
    assert clusterctl("down", "--yes").code == 0
    assert runs(spared) == {}


def test_what_a_killed_down_left_is_not_healed(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    def killed(argv: tuple[str, ...]) -> Result | None:
        if argv[:2] == ("docker", "rm"):
            raise KeyboardInterrupt
        return None

    spared.nodes["gpu-01"].special = killed
    assert clusterctl("down", "--yes").code == 130
    assert "gpu-02" in runs(spared)
    _no_answer(spared)
    assert clusterctl("heal").code == 1
    spared.nodes["gpu-01"].special = lambda _: None
    assert clusterctl("up").code == 0


def test_a_worker_that_died_all_ranks_are_restarted(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    before = {name: dict(node.containers) for name, node in spared.nodes.items()}
    stop(spared, "gpu-02")
    outcome = clusterctl("heal", "--json")
    assert outcome.code == 0, outcome.err
    cause = next(event for event in outcome.events if event["event"] == "cause")
    assert cause["why"][0] == "gpu-02: the ray container exited with code 137"
    assert cause["node"] == "gpu-02"
    assert outcome.events[-1]["event"] == "healed"
    assert outcome.events[-1]["replaced"] == {}
    assert runs(spared) == {"gpu-01": ["ray-gpu-01", "serve-gpu-01"], "gpu-02": ["ray-gpu-02"]}
    for name, node in spared.nodes.items():
        assert all(found is not before[name][key] for key, found in node.containers.items())
    (restart,) = roster(spared)["restarts"]
    assert (restart["node"], restart["why"]) == ("gpu-02", "gpu-02: the ray container exited with code 137")
    assert roster(spared) == roster(spared, "gpu-03")


def test_a_node_that_is_gone_is_replaced_by_the_spare(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    _no_answer(spared)
    spared.nodes["gpu-02"].unreachable = "no answer within 10 s"
    outcome = clusterctl("heal")
    assert outcome.code == 0, outcome.err
    assert "gpu-02 is not used any more: gone: no answer within 10 s" in outcome.lines
    assert "gpu-03 has the place of gpu-02" in outcome.lines
    spared.facts.clear()
    assert spared.nodes["gpu-03"].containers.keys() == {"ray-gpu-03"}
    assert roster(spared)["quarantined"]["gpu-02"]["reason"] == "gone: no answer within 10 s"

    status = clusterctl("status", "--json")
    assert status.code == 0
    (found,) = status.events
    assert [(node["name"], node["node_rank"]) for node in found["nodes"]] == [("gpu-01", 0), ("gpu-03", 1)]
    assert found["spares"] == [
        {"name": "gpu-03", "address": "10.0.0.13", "gpus": 2, "state": "in use", "replaces": "gpu-02"}
    ]
    assert found["quarantined"][0]["name"] == "gpu-02"
    assert found["quarantined"][0]["replaced_by"] == "gpu-03"
    screen = clusterctl("status").out
    assert "! gpu-02 is in quarantine since " in screen
    assert "gone: no answer within 10 s; gpu-03 has its place" in screen


def test_a_node_that_comes_back_is_cleared_and_not_used(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    _no_answer(spared)
    spared.nodes["gpu-02"].unreachable = "no answer within 10 s"
    assert clusterctl("heal").code == 0
    spared.facts.clear()
    spared.nodes["gpu-02"].unreachable = ""
    assert "ray-gpu-02" in spared.nodes["gpu-02"].containers
    assert clusterctl("up").code == 0
    assert runs(spared) == {"gpu-01": ["ray-gpu-01", "serve-gpu-01"], "gpu-03": ["ray-gpu-03"]}
    assert "nothing to do" in clusterctl("heal").out


def test_the_head_that_is_gone(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    spared.nodes["gpu-01"].unreachable = "no route to host"
    outcome = clusterctl("heal", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.events[-1]["url"] == "http://10.0.0.13:8000"
    assert outcome.events[-1]["replaced"] == {"gpu-01": "gpu-03"}
    assert runs(spared)["gpu-03"] == ["ray-gpu-03", "serve-gpu-03"]


def test_a_head_whose_server_another_node_sees_is_left_alone(
    spared: FakeFleet, clusterctl: Clusterctl
) -> None:
    spared.nodes["gpu-01"].unreachable = "no route to host"
    spared.facts["gpu-02"] = {"scrape": Result(0, '{"health": 200, "metrics": "", "reason": ""}\n', "")}
    outcome = clusterctl("heal")
    assert outcome.code == 1
    assert "gpu-02 sees its server answer" in outcome.out
    assert not any(spared.steps().values())


def test_without_a_spare_it_says_so_and_touches_nothing(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    _no_answer(spared)
    for node in ("gpu-02", "gpu-03"):
        spared.nodes[node].unreachable = "no answer within 10 s"
    before = runs(spared)
    outcome = clusterctl("heal")
    assert outcome.code == 7
    assert "gpu-02" in outcome.err
    assert "no spare can take its place: gpu-03 is in use or in quarantine itself" in outcome.err
    assert runs(spared) == before
    assert not any(spared.steps().values())
    assert "roster.json" not in spared.nodes["gpu-01"].kept


def test_who_is_out_already_and_replaced_by_none_is_not_taken_back(
    spared: FakeFleet, clusterctl: Clusterctl
) -> None:
    assert clusterctl("quarantine", "gpu-02", "--reason", "fan is loud").code == 0
    spared.write(GOOD)
    _no_answer(spared)
    spared.nodes["gpu-02"].unreachable = "no answer within 10 s"
    outcome = clusterctl("heal")
    assert outcome.code != 0
    assert roster(spared)["out"] == ["gpu-02"]
    spared.write(GOOD + SPARE)
    assert clusterctl("heal").code == 0
    assert roster(spared)["out"] == ["gpu-02"]
    assert roster(spared)["quarantined"]["gpu-02"]["reason"] == "fan is loud"


def test_a_spare_that_cannot_do_the_job_is_passed_over(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    spared.write(GOOD + SPARE + SPARE.replace("gpu-03", "gpu-04").replace(".13", ".14"))
    assert clusterctl("up").code == 0  # gpu-04 takes part in the lock from now on
    _no_answer(spared)
    spared.nodes["gpu-02"].unreachable = "no answer within 10 s"
    spared.nodes["gpu-03"].gpus = 1
    outcome = clusterctl("heal", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.events[-1]["replaced"] == {"gpu-02": "gpu-04"}
    assert "[gpu-count]" in roster(spared)["quarantined"]["gpu-03"]["reason"]


def test_a_member_that_lost_a_gpu_is_replaced(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    stop(spared, "gpu-02")
    spared.nodes["gpu-02"].gpus = 1
    outcome = clusterctl("heal", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.events[-1]["replaced"] == {"gpu-02": "gpu-03"}
    assert runs(spared) == {"gpu-01": ["ray-gpu-01", "serve-gpu-01"], "gpu-03": ["ray-gpu-03"]}


def test_evidence_is_kept_before_anything_is_stopped(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    spared.nodes["gpu-02"].logs["ray"] = "2026-11-21T05:24:26Z raylet died\n"
    stop(spared, "gpu-02")
    assert clusterctl("heal").code == 0
    kept = {path: text for path, text in spared.nodes["gpu-02"].kept.items() if "/evidence/" in path}
    assert any("raylet died" in text for text in kept.values())


def test_a_changed_inventory_is_not_brought_up_by_the_way(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    stop(spared, "gpu-02")
    spared.write((GOOD + SPARE).replace("max_model_len: 4096", "max_model_len: 8192"))
    outcome = clusterctl("heal")
    assert outcome.code == 0, outcome.err
    assert "was changed since `up`; generation 1 is what should run" in outcome.out
    there = "".join(spared.nodes["gpu-01"].files.values())
    assert "4096" in there
    assert "8192" not in there


# --- as watch --heal does it ----------------------------------------------------------------------


def test_watched_it_waits_between_restarts_and_gives_up(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    spared.write(
        GOOD.replace("cluster: demo\n", "cluster: demo\nheal: {max_restarts: 2, backoff: 30.0}\n") + SPARE
    )
    stop(spared, "gpu-02")
    assert heal_watched(spared.file, True, DEAD).state == "healed"
    stop(spared, "gpu-02")
    spared.steps()
    later = heal_watched(spared.file, True, DEAD)
    assert later.state == "waiting"
    assert 25 < later.seconds <= 30
    assert not any(spared.steps().values())
    assert clusterctl("heal").code == 0  # a person does not wait
    stop(spared, "gpu-02")
    given_up = heal_watched(spared.file, True, DEAD)
    assert given_up.state == "given up"
    assert "restarted 2 times within 3600 s" in given_up.why


def test_a_node_that_keeps_failing_falls_out(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    for _ in range(3):
        stop(spared, "gpu-02")
        assert clusterctl("heal").code == 0
    assert roster(spared)["quarantined"]["gpu-02"]["reason"].startswith(
        "failed 3 times within 3600 s, at last: "
    )
    assert runs(spared) == {"gpu-01": ["ray-gpu-01", "serve-gpu-01"], "gpu-03": ["ray-gpu-03"]}


def test_what_only_time_shows_is_enough(spared: FakeFleet) -> None:
    """A wedged server: each container runs, and Ray counts all nodes."""
    before = spared.nodes["gpu-01"].containers["serve-gpu-01"]
    healed = heal_watched(spared.file, True, Liveness("wedged", "no token for 120 s"))
    assert healed.state == "healed"
    assert healed.why.startswith("wedged: no token for 120 s")
    assert spared.nodes["gpu-01"].containers["serve-gpu-01"] is not before


# --- restart --------------------------------------------------------------------------------------


def test_restart_is_of_vllm_alone(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    before = {name: dict(node.containers) for name, node in spared.nodes.items()}
    outcome = clusterctl("restart", "--yes")
    assert outcome.code == 0, outcome.err
    assert spared.nodes["gpu-01"].containers["serve-gpu-01"] is not before["gpu-01"]["serve-gpu-01"]
    for node in ("gpu-01", "gpu-02"):
        assert spared.nodes[node].containers[f"ray-{node}"] is before[node][f"ray-{node}"]


def test_restart_with_ray(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    before = {name: dict(node.containers) for name, node in spared.nodes.items()}
    assert clusterctl("restart", "--ray", "--yes").code == 0
    for node in ("gpu-01", "gpu-02"):
        assert spared.nodes[node].containers[f"ray-{node}"] is not before[node][f"ray-{node}"]


def test_restart_of_nothing(fleet: FakeFleet, clusterctl: Clusterctl) -> None:
    assert clusterctl("restart", "--yes").code == 1
    assert runs(fleet) == {}


def test_restart_asks_first(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    outcome = clusterctl("restart")
    assert outcome.code == 2
    assert "--yes" in outcome.err
    assert not any(spared.steps().values())


# --- quarantine -----------------------------------------------------------------------------------


def test_quarantine_in_and_out(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    assert clusterctl("quarantine").lines[0] == "no node is in quarantine"
    outcome = clusterctl("quarantine", "gpu-02", "--reason", "fan is loud")
    assert outcome.code == 0, outcome.err
    assert outcome.lines == ["gpu-02 is in quarantine; `clusterctl up` puts gpu-03 in its place"]
    assert clusterctl("up").code == 0
    assert runs(spared) == {"gpu-01": ["ray-gpu-01", "serve-gpu-01"], "gpu-03": ["ray-gpu-03"]}
    assert "fan is loud; gpu-03 has its place" in clusterctl("quarantine").out

    released = clusterctl("quarantine", "--release", "gpu-02")
    assert released.lines == ["gpu-02 stands by as a spare; nothing is restarted for it"]
    assert "nothing to do" in clusterctl("up").out
    (listed,) = clusterctl("quarantine", "--json").events
    assert listed["quarantined"] == []
    assert [(one["name"], one["state"]) for one in listed["spares"]] == [
        ("gpu-02", "standing by"),
        ("gpu-03", "in use"),
    ]


def test_up_says_that_no_spare_is_left(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    assert clusterctl("quarantine", "gpu-02", "--reason", "fan is loud").code == 0
    spared.write(GOOD)
    outcome = clusterctl("up")
    assert outcome.code == 5
    assert (
        "gpu-02 is not used any more, and no spare can take its place: the inventory has none" in outcome.err
    )
    assert not any(spared.steps().values())


def test_rollback_does_not_use_who_was_quarantined_since(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    assert clusterctl("quarantine", "gpu-02", "--reason", "fan is loud").code == 0
    spared.write(GOOD.replace("max_model_len: 4096", "max_model_len: 8192") + SPARE)
    assert clusterctl("up").code == 0
    outcome = clusterctl("rollback", "1", "--yes")
    assert outcome.code == 0, outcome.err
    assert sorted(runs(spared)) == ["gpu-01", "gpu-03"]
    spared.write(GOOD + SPARE)
    assert clusterctl("up").out.startswith("nothing to do")
    assert clusterctl("heal").out.startswith("nothing to do")


def test_what_is_put_back_does_not_use_who_was_quarantined_since(
    spared: FakeFleet, clusterctl: Clusterctl
) -> None:
    assert clusterctl("quarantine", "gpu-02", "--reason", "fan is loud").code == 0
    spared.write(GOOD.replace("max_model_len: 4096", "max_model_len: 8192") + SPARE)
    broken = [True]

    def dies(argv: Argv) -> Result | None:
        if argv[-1] == "serve" and broken:
            broken.clear()
            return Result(2, "", "unrecognized arguments\n")
        return None

    spared.nodes["gpu-01"].special = dies
    outcome = clusterctl("up")
    assert outcome.code == 7
    assert "was put back and answers" in outcome.err
    assert sorted(runs(spared)) == ["gpu-01", "gpu-03"]
    assert "nothing to do" in clusterctl("heal").out


def test_what_has_just_failed_is_not_put_back(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    assert clusterctl("quarantine", "gpu-02", "--reason", "fan is loud").code == 0
    spared.nodes["gpu-03"].special = lambda argv: Result(1, "", "no\n") if argv[-1] == "ray" else None
    outcome = clusterctl("up")
    assert outcome.code == 7
    assert "Generation 1 could not be put back: with the nodes that are in use now it is what" in outcome.err
    assert sum(step.endswith("run_cluster.sh ray") for step in spared.nodes["gpu-03"].steps) == 1


def test_quarantine_without_a_spare_is_refused(fleet: FakeFleet, clusterctl: Clusterctl) -> None:
    outcome = clusterctl("quarantine", "gpu-02", "--reason", "fan is loud")
    assert outcome.code == 5
    assert outcome.err == (
        "error: gpu-02 cannot be left out: no spare can take its place: the inventory has none\n"
        "  Add a node with `spare: true` and 2 GPUs.\n"
    )
    assert "roster.json" not in fleet.nodes["gpu-01"].kept


def test_the_audit_says_who_was_quarantined_and_why(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    assert clusterctl("quarantine", "gpu-02", "--reason", " fan is\n loud ").code == 0
    assert clusterctl("quarantine", "--release", "gpu-02").code == 0
    assert [act["result"] for act in clusterctl("audit", "--json").events[1:]] == [
        "gpu-02 is in quarantine: fan is loud",
        "gpu-02 was released",
    ]
    assert roster(spared)["quarantined"] == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("gpu-02",), "NODE and --reason TEXT belong together"),
        (("gpu-02", "--reason", " "), "NODE and --reason TEXT belong together"),
        (("gpu-09", "--reason", "x"), "gpu-09: no such node; the nodes are gpu-01, gpu-02, gpu-03"),
        (("--release", "gpu-02"), "--release gpu-02: it is not in quarantine; there: no node is"),
        (("gpu-02", "--release", "gpu-01"), "--release stands alone"),
    ],
)
def test_quarantine_of_what_there_is_not(
    spared: FakeFleet, clusterctl: Clusterctl, options: tuple[str, ...], said: str
) -> None:
    outcome = clusterctl("quarantine", *options)
    assert outcome.code == 2
    assert said in outcome.err
    assert "roster.json" not in spared.nodes["gpu-01"].kept


# --- who plays, elsewhere -------------------------------------------------------------------------


@pytest.mark.usefixtures("spared")
def test_exec_and_logs_go_to_who_plays(clusterctl: Clusterctl) -> None:
    assert clusterctl("quarantine", "gpu-02", "--reason", "fan is loud").code == 0
    assert clusterctl("up").code == 0
    assert [line.split()[0] for line in clusterctl("exec", "--", "hostname").lines] == ["gpu-01", "gpu-03"]
    assert clusterctl("exec", "--node", "gpu-02", "--", "hostname").code == 2


def test_down_clears_spares_too(spared: FakeFleet, clusterctl: Clusterctl) -> None:
    spared.nodes["gpu-02"].unreachable = "no answer within 10 s"
    _no_answer(spared)
    assert clusterctl("heal").code == 0
    spared.nodes["gpu-02"].unreachable = ""
    assert clusterctl("down", "--yes").code == 0
    assert runs(spared) == {}


# --- check ----------------------------------------------------------------------------------------


def test_check_looks_at_spares_and_lets_none_stop_up(fleet: FakeFleet, clusterctl: Clusterctl) -> None:
    fleet.write(GOOD + SPARE)
    fleet.nodes["gpu-03"].gpus = 1
    outcome = clusterctl("check")
    assert outcome.code == 0, outcome.err
    assert (
        "warning  gpu-03  nvidia-smi shows 1 GPUs; expected: 2, as the inventory says [gpu-count]"
        in outcome.out
    )
    assert outcome.lines[-1] == "2 nodes and 1 spare: 1 warning; nothing stops `clusterctl up`"
    assert [line.split()[0] for line in outcome.lines[1:4]] == ["gpu-01", "gpu-02", "gpu-03"]


def test_check_of_a_spare_that_cannot_be_reached(fleet: FakeFleet, clusterctl: Clusterctl) -> None:
    fleet.write(GOOD + SPARE)
    fleet.nodes["gpu-03"].unreachable = "no answer within 10 s"
    outcome = clusterctl("check", "--json")
    (answer,) = outcome.events
    assert (outcome.code, answer["ok"]) == (0, True)
    assert [(p["id"], p["node"], p["severity"]) for p in answer["problems"]] == [
        ("ssh-unreachable", "gpu-03", "warning")
    ]
    assert clusterctl("up").code == 0


def test_what_a_spare_lacks_is_not_laid_on_the_members(fleet: FakeFleet, clusterctl: Clusterctl) -> None:
    """A driver that differs is told of the spare, whatever it is compared with."""
    fleet.write(GOOD + SPARE)
    old = "".join(GPU.format(index).replace("580.159.04", "535.1") for index in range(2))
    fleet.facts["gpu-03"] = {"gpus": Result(0, old, "")}
    (answer,) = clusterctl("check", "--json").events
    assert {p["node"] for p in answer["problems"]} == {"gpu-03"}
    assert "driver-differs" in {p["id"] for p in answer["problems"]}
