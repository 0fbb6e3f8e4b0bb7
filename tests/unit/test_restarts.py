"""Starting again what stands: all of it, or vLLM alone; and what is left on nodes without a part."""

from __future__ import annotations

from dataclasses import replace

from samples import PROCESS, fresh, healthy, inventory, plan

from cluster.facts import RayNode
from cluster.inventory.spares import played
from cluster.plan import but_for, make_plan, with_others
from cluster.restarts import ALL, clear_others, counted_in_ray, not_counted, restart
from cluster.steps import Phase, Run

SPARED = inventory(
    {
        "nodes": [
            {"name": "gpu-01", "address": "10.0.0.11", "gpus": 2},
            {"name": "gpu-02", "address": "10.0.0.12", "gpus": 2},
            {"name": "gpu-03", "address": "10.0.0.13", "gpus": 4, "spare": True},
        ]
    }
)


def titles(found: tuple[Phase, ...]) -> list[str]:
    return [phase.title for phase in found]


def commands(phase: Phase) -> list[str]:
    return [str(step) for step in phase.steps if isinstance(step, Run)]


def test_all_ranks_together_ray_too() -> None:
    found = restart(plan(), healthy(plan()), ALL)
    assert titles(found) == [
        "Remove what is outdated",
        "Start Ray head",
        "Start Ray workers",
        "Wait for every node and GPU to join",
        "Read what arrived at Ray",
        "Prove the network",
        "Start vLLM",
        "Wait for a completion",
        "Read what arrived at vLLM",
    ]
    assert commands(found[0])[1::2] == [
        "gpu-01  docker rm --force --volumes serve-gpu-01",
        "gpu-01  docker rm --force --volumes ray-gpu-01",
        "gpu-02  docker rm --force --volumes ray-gpu-02",
    ]


def test_vllm_alone() -> None:
    found = restart(plan(), healthy(plan()), ("serve",))
    assert "Start Ray head" not in titles(found)
    assert titles(found)[-3:] == ["Start vLLM", "Wait for a completion", "Read what arrived at vLLM"]
    assert commands(found[0])[-1] == "gpu-01  docker rm --force --volumes serve-gpu-01"


def test_where_there_are_no_containers() -> None:
    local = plan(base=PROCESS)
    found = restart(local, healthy(local), ALL)
    assert [command.split()[-1] for command in commands(found[0])] == [
        "clusterctl-local-serve",
        "clusterctl-local-ray",
    ]
    assert "Start Ray head" in titles(found)


def test_nothing_again_is_what_up_does() -> None:
    assert restart(plan(), healthy(plan()), ()) == ()


def test_ray_that_counts_a_node_without_a_part_is_seen() -> None:
    stranger = RayNode("10.0.0.13", "gpu-03", True, 2)
    head = healthy(plan())["gpu-01"]
    facts = {"gpu-01": replace(head, ray_nodes=(*(head.ray_nodes or ()), stranger))}
    assert counted_in_ray(facts, {"10.0.0.13"})
    assert not counted_in_ray(facts, {"10.0.0.14"})
    assert not counted_in_ray(
        {"gpu-01": replace(head, ray_nodes=(replace(stranger, alive=False),))}, {"10.0.0.13"}
    )
    assert not_counted(facts["gpu-01"], {"10.0.0.13"}).ray_nodes == head.ray_nodes
    assert not_counted(replace(head, ray_nodes=None), {"10.0.0.13"}).ray_nodes is None


def test_who_was_replaced_is_cleared() -> None:
    now = make_plan(played(SPARED, ["gpu-02"]))
    whole = with_others(SPARED, now)
    left = healthy(make_plan(SPARED))["gpu-02"]
    found = clear_others(whole, {"gpu-01", "gpu-03"}, {"gpu-02": left, "gpu-03": fresh(now)["gpu-03"]})
    assert titles(found) == ["Stop Ray", "Remove files"]
    assert {step.node for phase in found for step in phase.steps} == {"gpu-02"}


def test_the_others_stand_behind_the_members_and_change_no_size() -> None:
    now = make_plan(SPARED)
    whole = with_others(SPARED, now)
    assert [(m.name, m.node_rank) for m in whole.members] == [("gpu-01", 0), ("gpu-02", 1), ("gpu-03", 2)]
    assert whole.sizes == now.sizes
    assert [m.name for m in but_for(whole, {"gpu-02"}).members] == ["gpu-01", "gpu-03"]


def test_the_head_stays_the_head_among_the_others() -> None:
    now = make_plan(played(SPARED, ["gpu-01"]))
    whole = with_others(SPARED, now)
    assert [m.name for m in whole.members] == ["gpu-03", "gpu-02", "gpu-01"]
    assert whole.head == now.head
