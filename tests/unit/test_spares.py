"""Spares: who plays, in whose place, and what an inventory may not say of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import inventory

from cluster.errors import InventoryError
from cluster.inventory import Inventory
from cluster.inventory.spares import NoSpareError, everyone, members, played, replacement, spares
from cluster.plan import make_plan


def nodes(*described: str) -> Inventory:
    """An inventory of nodes such as `a`, `b:4` (GPUs) and `-s` (a spare); two GPUs where nothing is said."""
    content = []
    for number, text in enumerate(described, 11):
        name, _, gpus = text.partition(":")
        node: dict[str, Any] = {"address": f"10.0.0.{number}", "gpus": int(gpus or 2)}
        node |= {"name": name.removeprefix("-")} | ({"spare": True} if name.startswith("-") else {})
        content.append(node)
    uneven = len({node["gpus"] for node in content if "spare" not in node}) > 1
    total = sum(node["gpus"] for node in content if "spare" not in node)
    sizes = {"serve.tensor_parallel_size": 1, "serve.pipeline_parallel_size": total} if uneven else {}
    return inventory({"nodes": content, **sizes})


def names(inventory: Inventory, quarantined: Sequence[str] = ()) -> list[str]:
    return [node.name for node in played(inventory, quarantined).nodes]


def test_spares_are_no_members_wherever_they_stand() -> None:
    one = nodes("-s", "a", "b")
    assert [node.name for node in members(one)] == ["a", "b"]
    assert [node.name for node in spares(one)] == ["s"]
    plan = make_plan(one)
    assert [member.name for member in plan.members] == ["a", "b"]
    assert (plan.head.name, plan.tensor_parallel_size, plan.pipeline_parallel_size) == ("a", 2, 2)
    assert make_plan(played(one)) == plan


def test_a_spare_takes_place_rank_and_gpus() -> None:
    plan = make_plan(played(nodes("a", "b", "c", "-s:8"), ["b"]))
    assert [(m.name, m.node_rank, m.node.gpus) for m in plan.members] == [
        ("a", 0, 2),
        ("s", 1, 2),
        ("c", 2, 2),
    ]
    assert plan.world_size == 6


@pytest.mark.parametrize("head", ["a", "b"])
def test_the_heads_part_goes_with_its_place(head: str) -> None:
    one = nodes("a", "b", "-s").model_copy(update={"head": head})
    plan = make_plan(played(one, [head]))
    assert plan.head.name == "s"
    assert plan.head.address == "10.0.0.13"
    assert plan.workers[0].name == ({"a", "b"} - {head}).pop()


def test_the_first_spare_with_enough_gpus_is_taken() -> None:
    assert names(nodes("a:1", "b:4", "-s:2", "-t:4"), ["b"]) == ["a", "t"]
    assert names(nodes("a:1", "b:4", "-s:2", "-t:4"), ["a"]) == ["s", "b"]


def test_who_took_a_place_keeps_it() -> None:
    one = nodes("a", "b", "-s", "-t", "-u")
    assert names(one, ["b"]) == ["a", "s"]
    assert names(one, ["b", "a"]) == ["t", "s"]
    assert names(one, ["b", "a", "s"]) == ["t", "u"]


def test_a_spare_in_quarantine_replaces_nobody() -> None:
    assert names(nodes("a", "-s", "-t"), ["s", "a"]) == ["t"]


def test_no_spare_is_said_with_what_to_do() -> None:
    with pytest.raises(NoSpareError) as caught:
        played(nodes("a:4", "b:8", "-s:4"), ["a", "b"])
    said = str(caught.value)
    assert "b is not used any more" in said
    assert "s is in use" in said
    assert "`clusterctl quarantine INVENTORY --release b`" in said
    assert caught.value.node == "b"
    with pytest.raises(NoSpareError, match="s has 4 GPUs, b 8"):
        played(nodes("a:4", "b:8", "-s:4"), ["b"])
    with pytest.raises(NoSpareError, match="the inventory has none"):
        played(nodes("a", "b"), ["b"])


def test_names_of_another_inventory_are_passed_over() -> None:
    assert names(nodes("a", "b", "-s"), ["nobody"]) == ["a", "b"]


def test_who_comes_back_stands_by_and_nobody_moves_for_it() -> None:
    one = nodes("a", "b", "-s")
    assert names(one, ["b", "b"]) == ["a", "s"]
    assert names(one, ["b", "b", "a"]) == ["b", "s"]
    assert names(one, ["b", "b", "s"]) == ["a", "b"]


def test_a_spare_that_came_back_is_found_though_there_was_none_at_the_time() -> None:
    assert names(nodes("a", "b", "-s"), ["s", "b", "s"]) == ["a", "s"]


def test_who_only_looks_sees_those_that_none_replaces() -> None:
    one = nodes("a", "b", "-s")
    assert [node.name for node in played(one, ["b", "a"], looking=True).nodes] == ["a", "s"]


def test_replacement_names_the_spare() -> None:
    one = nodes("a", "b", "-s", "-t")
    assert replacement(one, (), "b") == "s"
    assert replacement(one, ("b",), "s") == "t"


def test_everyone_is_a_member_for_what_concerns_each_node_alone() -> None:
    assert [member.name for member in make_plan(everyone(nodes("a", "-s"))).members] == ["a", "s"]


@given(st.lists(st.sampled_from("abcstuxyz"), unique=True))
def test_whatever_falls_out_the_places_are_kept(quarantined: list[str]) -> None:
    """No node twice, none of those that fell out, and nobody moves but for those that have to."""
    one = nodes("a", "b", "c", "-s", "-t", "-u")
    out = [name for name in quarantined if name in "abcstu"]
    if len(out) > 3:
        with pytest.raises(NoSpareError):
            played(one, quarantined)
        return
    now = names(one, quarantined)
    assert len(set(now)) == 3
    assert not set(now) & set(out)
    if out:
        before = names(one, quarantined[: quarantined.index(out[-1])])
        assert [new for old, new in zip(before, now, strict=True) if old != out[-1]] == [
            old for old in before if old != out[-1]
        ]


# --- what an inventory may not say ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nodes.0.spare": True, "nodes.1.spare": True}, "nodes: every node is a spare"),
        ({"nodes.1.spare": True, "head": "gpu-02"}, "head: 'gpu-02' is a spare"),
        ({"nodes.1.spare": True, "nodes.1.gpus": 1}, "nodes[1].gpus: 1 are too few"),
    ],
)
def test_inventories_that_cannot_be(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InventoryError) as caught:
        inventory(changes)
    assert said in str(caught.value)


def test_sizes_are_those_of_the_members() -> None:
    given_sizes = {"serve.tensor_parallel_size": 2, "serve.pipeline_parallel_size": 1}
    one = inventory({"nodes.1.spare": True, "nodes.1.gpus": 8, **given_sizes})
    assert make_plan(one).gpus == 2
