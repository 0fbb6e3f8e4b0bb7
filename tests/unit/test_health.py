"""What state a cluster is in, and what is missing and where."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from samples import container, fresh, healthy, plan

from cluster.facts import Answer, Facts, RayNode
from cluster.health import Health, health

REFUSED = Answer(None, reason="http://10.0.0.11:8000/v1/completions: [Errno 111] Connection refused")
HEAD = RayNode("10.0.0.11", "gpu-01", True, 2)


def found(changes: dict[str, dict[str, Any]] | None = None, gone: dict[str, str] | None = None) -> Health:
    """The health where some facts of some nodes differ from a healthy cluster's."""
    facts = {
        name: replace(fact, **(changes or {}).get(name, {}))
        for name, fact in healthy(plan()).items()
        if name not in (gone or {})
    }
    return health(plan(), facts, gone or {})


def states(health: Health) -> list[str]:
    return [node.state for node in health.nodes]


def test_serving() -> None:
    health = found()
    assert (health.state, health.ready, health.missing) == ("serving", True, ())
    assert states(health) == ["joined", "joined"]
    assert (health.nodes_alive, health.gpus_total) == (2, 4)
    assert health.nodes[0].containers == (("ray", "running"), ("serve", "running"))


def test_down() -> None:
    health_of_nothing = health(plan(), fresh(plan()), {})
    assert (health_of_nothing.state, health_of_nothing.missing) == ("down", ())
    assert states(health_of_nothing) == ["down", "down"]


def test_starting() -> None:
    health = found({"gpu-01": {"answer": REFUSED}})
    assert (health.state, health.ready) == ("starting", False)
    assert health.missing == (f"gpu-01: no completion: {REFUSED.reason}",)


def ray_of(node: int, **changes: Any) -> tuple[Any, ...]:
    return (container(plan(), plan().members[node], "ray", **changes),)


@pytest.mark.parametrize(
    ("changes", "nodes", "missing"),
    [
        (
            {
                "gpu-01": {"ray_nodes": (HEAD,), "answer": REFUSED},
                "gpu-02": {"ray_nodes": None, "containers": ray_of(1, running=False, exit_code=1)},
            },
            ["joined", "exited"],
            (
                "gpu-02: the ray container exited with code 1",
                f"gpu-01: no completion: {REFUSED.reason}",
            ),
        ),
        (
            {"gpu-01": {"ray_nodes": (HEAD,)}, "gpu-02": {"ray_nodes": None, "ray_error": "GCS timed out"}},
            ["joined", "not joined"],
            ("gpu-02: has not joined Ray (GCS timed out)",),
        ),
        (
            {"gpu-02": {"containers": ()}},
            ["joined", "down"],
            ("gpu-02: Ray has not been started",),
        ),
        (
            {
                "gpu-01": {
                    "containers": (
                        *ray_of(0),
                        container(plan(), plan().head, "serve", running=False, oom_killed=True),
                    ),
                    "answer": Answer(None, reason="not running"),
                }
            },
            ["joined", "joined"],
            ("gpu-01: the serve container killed: out of memory",),
        ),
        (
            {"gpu-01": {"containers": ray_of(0), "answer": Answer(None, reason="not running")}},
            ["joined", "joined"],
            ("gpu-01: vLLM has not been started",),
        ),
        (
            {"gpu-01": {"answer": Answer(None, reason="answered 503: EngineCore is dead")}},
            ["joined", "joined"],
            ("gpu-01: no completion: answered 503: EngineCore is dead",),
        ),
    ],
)
def test_degraded(changes: dict[str, Any], nodes: list[str], missing: tuple[str, ...]) -> None:
    health = found(changes)
    assert (health.state, states(health), health.missing) == ("degraded", nodes, missing)


def test_a_node_that_cannot_be_reached_is_named_with_the_reason() -> None:
    health = found(gone={"gpu-02": "no answer from 10.0.0.12:22 within 10 s: is the node up?"})
    assert (health.state, states(health)) == ("degraded", ["joined", "unreachable"])
    assert health.missing == ("gpu-02: no answer from 10.0.0.12:22 within 10 s: is the node up?",)


def test_where_no_node_can_be_reached_nothing_is_known_to_be_down() -> None:
    nothing = health(plan(), {}, {"gpu-01": "x", "gpu-02": "y"})
    assert (nothing.state, nothing.missing) == ("degraded", ("gpu-01: x", "gpu-02: y"))


def test_an_engine_that_is_down_is_said_as_such() -> None:
    engine_down = Facts(engine_error="Cannot connect to the Docker daemon")
    nothing = health(plan(), {**healthy(plan()), "gpu-02": engine_down}, {})
    assert nothing.missing == ("gpu-02: docker: Cannot connect to the Docker daemon",)


def test_with_mp_every_node_has_a_server() -> None:
    changed = plan({"serve.executor_backend": "mp"})
    assert health(changed, healthy(changed), {}).state == "serving"
    facts = healthy(changed)
    half = health(changed, {**facts, "gpu-02": replace(facts["gpu-02"], containers=())}, {})
    assert (half.state, half.missing) == ("degraded", ("gpu-02: vLLM has not been started",))


def test_with_mp_a_running_rank_counts_its_gpus_as_joined() -> None:
    changed = plan({"serve.executor_backend": "mp"})
    whole = health(changed, healthy(changed), {})
    assert (whole.nodes_alive, whole.gpus_total) == (2, 4)
    exited = (container(changed, changed.workers[0], "serve", running=False, exit_code=1),)
    facts = healthy(changed)
    half = health(changed, {**facts, "gpu-02": replace(facts["gpu-02"], containers=exited)}, {})
    assert (half.nodes_alive, half.gpus_total) == (1, 2)


def test_a_server_that_is_gone_has_last_words() -> None:
    assert found().last_words == ""
    assert found({"gpu-01": {"last_words": "RuntimeError: no NCCL"}}).last_words == "RuntimeError: no NCCL"
