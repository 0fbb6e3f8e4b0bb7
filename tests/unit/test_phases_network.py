"""network.env: what is chosen from the facts of nodes, put beside the scripts of those that are started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from findings import complete, hca, port
from samples import PROCESS, container, fresh, healthy, plan, sha256

from cluster import phases
from cluster.facts import Facts
from cluster.plan import Plan
from cluster.steps import Phase, Put, Run

BOTH = "NCCL_IB_HCA==mlx5_0:1,mlx5_1:1\n"
FIRST = "NCCL_IB_HCA==mlx5_0:1\n"
HCAS = (hca(0), hca(1))


def network_steps(one: Plan, facts: Mapping[str, Facts]) -> list[tuple[str, str | None]]:
    """(node, content) of each network.env that is written; content None: it is removed."""
    steps = [step for phase in phases.up(one, facts) for step in phase.steps]
    found: list[tuple[str, str | None]] = []
    for step in steps:
        if isinstance(step, Put) and step.path == f".clusterctl/demo/{step.node}/network.env":
            assert step.mode == 0o644
            found.append((step.node, step.content))
        if isinstance(step, Run) and step.argv[0] == "rm":
            assert step.argv == ("rm", "-f", f".clusterctl/demo/{step.node}/network.env")
            found.append((step.node, None))
    return found


def serving(one: Plan, content: str = BOTH, **changes: Any) -> dict[str, Facts]:
    """Nodes with InfiniBand on which all of a plan is so, network.env included."""
    return {
        name: replace(facts, files={**facts.files, "network.env": sha256(content)}, hcas=HCAS, **changes)
        for name, facts in healthy(one).items()
    }


@pytest.mark.parametrize("backend", ["ray", "mp"])
def test_nodes_that_are_started_get_what_is_chosen(backend: str) -> None:
    one = plan({"serve.executor_backend": backend})
    assert network_steps(one, complete(one)) == [("gpu-01", BOTH), ("gpu-02", BOTH)]


def test_it_is_written_before_anything_is_started() -> None:
    titles = [
        phase.title
        for phase in phases.up(plan(), complete(plan()))
        for step in phase.steps
        if isinstance(step, Put) and step.path.endswith("/network.env")
    ]
    assert titles == ["Write start scripts"] * 2


@pytest.mark.parametrize("changes", [{"network.hcas": "none"}, {"network.hcas": ["mlx5_0"]}])
def test_where_there_is_nothing_to_say_there_is_no_file(changes: dict[str, Any]) -> None:
    one = plan(changes)
    assert network_steps(one, complete(one)) == []
    assert network_steps(plan(), fresh(plan())) == []


def test_a_file_that_is_there_already_is_not_written_again() -> None:
    facts = complete(plan())
    facts["gpu-01"] = replace(facts["gpu-01"], files={"network.env": sha256(BOTH)})
    facts["gpu-02"] = replace(facts["gpu-02"], files={"network.env": sha256(FIRST)})
    assert network_steps(plan(), facts) == [("gpu-02", BOTH)]


def test_a_stale_file_is_removed() -> None:
    facts = fresh(plan(), files={"network.env": sha256(BOTH)})
    assert network_steps(plan(), facts) == [("gpu-01", None), ("gpu-02", None)]


@pytest.mark.parametrize("backend", ["ray", "mp"])
def test_a_port_that_goes_down_restarts_no_model_that_serves(backend: str) -> None:
    one = plan({"serve.executor_backend": backend})
    facts = serving(one)
    assert phases.up(one, facts) == ()
    facts["gpu-02"] = replace(facts["gpu-02"], hcas=(hca(0), hca(1, port("DOWN"))))
    assert phases.up(one, facts) == ()


def test_a_node_that_comes_back_with_fewer_ports_changes_the_choice_of_all() -> None:
    """Unlike numbers of HCAs would hang: nothing serves any more, so Ray starts anew everywhere."""
    facts = serving(plan())
    facts["gpu-02"] = replace(
        facts["gpu-02"],
        hcas=(hca(0), hca(1, port("DOWN"))),
        containers=(container(plan(), plan().workers[0], "ray", running=False),),
    )
    assert network_steps(plan(), facts) == [("gpu-01", FIRST), ("gpu-02", FIRST)]
    assert {"Start Ray head", "Start Ray workers"} <= titles(phases.up(plan(), facts))


def test_after_a_failed_gate_what_was_mended_is_chosen() -> None:
    """Ray stands without a model, started while a port was down."""
    facts = {
        name: replace(one, containers=tuple(c for c in one.containers if c.role == "ray"), answer=None)
        for name, one in serving(plan(), FIRST).items()
    }
    assert network_steps(plan(), facts) == [("gpu-01", BOTH), ("gpu-02", BOTH)]
    assert {"Remove what is outdated", "Start Ray head", "Start Ray workers"} <= titles(
        phases.up(plan(), facts)
    )


def test_a_server_that_is_started_anew_has_what_is_chosen_today() -> None:
    """Another flag of vLLM's restarts the server; Ray stays where its HCAs are those of today."""
    after = plan({"serve.args.max_model_len": 8192})
    facts = serving(plan())
    assert network_steps(after, facts) == []
    assert "Start Ray head" not in titles(phases.up(after, facts))
    facts["gpu-02"] = replace(facts["gpu-02"], hcas=(hca(0), hca(1, port("DOWN"))))
    assert network_steps(after, facts) == [("gpu-01", FIRST), ("gpu-02", FIRST)]


def titles(found: tuple[Phase, ...]) -> set[str]:
    return {phase.title for phase in found}


def test_on_one_node_there_is_no_file() -> None:
    one = plan({"runtime.device": "cuda"}, PROCESS)
    facts = fresh(one, hcas=HCAS)
    assert not [
        step
        for phase in phases.up(one, facts)
        for step in phase.steps
        if isinstance(step, Put) and "network.env" in step.path
    ]
