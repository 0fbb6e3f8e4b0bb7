"""What is wrong, whose fault it is, and when there is nothing to heal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from samples import container, fresh, healthy, plan

from cluster.facts import Answer, RayNode
from cluster.healing.causes import Cause, Nothing, cause

REFUSED = Answer(None, reason="http://10.0.0.11:8000/v1/completions: [Errno 111] Connection refused")
TIMED_OUT = Answer(None, reason="timed out")
HEAD = RayNode("10.0.0.11", "gpu-01", True, 2)
WORKER_DEAD = RayNode("10.0.0.12", "gpu-02", False, 2, "health check failed")


def found(
    changes: dict[str, dict[str, Any]] | None = None,
    gone: dict[str, str] | None = None,
    seen: tuple[str, ...] = (),
    mp: bool = False,
) -> Cause | Nothing:
    """The cause where some facts of some nodes differ from a healthy cluster's."""
    the_plan = plan({"serve.executor_backend": "mp"}) if mp else plan()
    facts = {
        name: replace(fact, **(changes or {}).get(name, {}))
        for name, fact in healthy(the_plan).items()
        if name not in (gone or {})
    }
    return cause(the_plan, facts, gone or {}, meant_to_run=True, seen=seen)


def ended(*nodes: int, code: int = 137, role: str = "ray", also: Any = ()) -> dict[str, dict[str, Any]]:
    """Changes: the container of a role exited on these nodes."""
    members = [plan().members[node] for node in nodes]
    return {
        m.name: {"containers": (container(plan(), m, role, running=False, exit_code=code), *also)}
        for m in members
    }


def what(changes: dict[str, dict[str, Any]] | None = None, **more: Any) -> Cause:
    it = found(changes, **more)
    assert isinstance(it, Cause)
    return it


# --- nothing to heal ------------------------------------------------------------------------------


def test_a_cluster_that_serves() -> None:
    it = found()
    assert it == Nothing("llama is serving on http://10.0.0.11:8000/v1", serves=True)


def test_a_cluster_that_is_down_on_purpose() -> None:
    it = cause(plan(), fresh(plan()), {}, meant_to_run=False)
    assert isinstance(it, Nothing)
    assert "`clusterctl up` starts it" in it.why


def test_a_model_that_is_still_loading() -> None:
    it = found({"gpu-01": {"answer": REFUSED}})
    assert isinstance(it, Nothing)
    assert "starting" in it.why


def test_a_node_that_only_the_operator_cannot_reach() -> None:
    """Ray on the head counts it, and the model answers: nobody is to take its place."""
    it = found(gone={"gpu-02": "no answer within 10 s"})
    assert isinstance(it, Nothing)
    assert it.serves


def test_a_head_that_only_the_operator_cannot_reach() -> None:
    """A worker sees its server answer: what serves is not killed for want of a line from here."""
    it = cause(plan(), {"gpu-02": healthy(plan())["gpu-02"]}, {"gpu-01": "no route"}, True, seen_by="gpu-02")
    assert isinstance(it, Nothing)
    assert not it.serves
    assert "gpu-01 cannot be reached from here (no route), but gpu-02 sees its server answer" in it.why


# --- causes ---------------------------------------------------------------------------------------


def test_a_worker_whose_container_ended() -> None:
    it = what({**ended(1), "gpu-01": {"ray_nodes": (HEAD, WORKER_DEAD), "answer": TIMED_OUT}})
    assert it.suspects == ("gpu-02",)
    assert it.blamed == "gpu-02"
    assert it.of("gpu-02") == "the ray container exited with code 137"


def test_a_worker_that_ray_does_not_count_any_more() -> None:
    it = what({"gpu-01": {"ray_nodes": (HEAD, WORKER_DEAD), "answer": TIMED_OUT}})
    assert it.suspects == ("gpu-02",)


def test_without_the_heads_ray_all_end_and_the_head_alone_is_to_blame() -> None:
    it = what({**ended(0, 1), "gpu-01": {**ended(0)["gpu-01"], "ray_nodes": None, "answer": REFUSED}})
    assert it.suspects == ("gpu-01",)


def test_a_server_that_ended_is_no_nodes_fault() -> None:
    ray = container(plan(), plan().head, "ray")
    it = what({"gpu-01": {**ended(0, code=1, role="serve", also=(ray,))["gpu-01"], "answer": REFUSED}})
    assert it.suspects == ()
    assert it.why == ("gpu-01: the serve container exited with code 1",)


def test_a_node_that_is_gone() -> None:
    it = what(
        {"gpu-01": {"ray_nodes": (HEAD, WORKER_DEAD), "answer": TIMED_OUT}}, gone={"gpu-02": "no route\nsee"}
    )
    assert it.unusable == {"gpu-02": "gone: no route"}
    assert it.blamed == "gpu-02"
    assert it.suspects == ()


def test_a_node_whose_engine_does_not_work() -> None:
    changes = {"engine_error": "Cannot connect to the Docker daemon", "containers": ()}
    it = what({"gpu-02": changes, "gpu-01": {"ray_nodes": (HEAD, WORKER_DEAD), "answer": TIMED_OUT}})
    assert it.unusable == {"gpu-02": "docker does not work: Cannot connect to the Docker daemon"}


def test_a_head_that_is_gone_takes_the_blame_for_its_workers() -> None:
    it = what(ended(1), gone={"gpu-01": "no route"})
    assert (tuple(it.unusable), it.suspects) == (("gpu-01",), ())


def test_what_only_time_shows_is_a_cause_though_the_cluster_looks_well() -> None:
    it = what(seen=("wedged: no token for 120 s",))
    assert it.why[0] == "wedged: no token for 120 s"
    assert it.blamed == ""


def test_containers_that_a_reboot_of_all_nodes_removed() -> None:
    it = cause(plan(), fresh(plan()), {}, meant_to_run=True)
    assert isinstance(it, Cause)
    assert it.why == ("nothing of it runs, and nobody has taken it down",)


@pytest.mark.parametrize("node", [0, 1])
def test_with_mp_the_rank_that_ended_is_to_blame(node: int) -> None:
    the_plan = plan({"serve.executor_backend": "mp"})
    member = the_plan.members[node]
    gone = container(the_plan, member, "serve", running=False, exit_code=1)
    it = what({member.name: {"containers": (gone,), "answer": None}}, mp=True)
    assert it.suspects == (member.name,)
