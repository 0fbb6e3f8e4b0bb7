"""Which interface and which HCAs each node gets, from facts made by hand, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from samples import PROCESS, plan

from cluster.choice import Choice, choose, expected_environment, explanation, explanation_json
from cluster.facts import Facts, Versions, rdma
from cluster.facts.hardware import Gid, Hca, HcaPort, Interface
from cluster.plan import Plan
from cluster.steps import Result

TWO = plan()
THREE = plan({"nodes": [{"name": f"gpu-0{n}", "address": f"10.0.0.1{n}", "gpus": 8} for n in (1, 2, 3)]})
RECORDED = Path(__file__).parents[1] / "recorded/facts"
NAMES = tuple(f"mlx5_{number}" for number in range(8))


def ib(name: str, rate: float = 400.0, state: str = "ACTIVE") -> Hca:
    """An HCA with one InfiniBand port."""
    return Hca(name, (HcaPort(1, state, "InfiniBand", rate),))


def roce(name: str, *addresses: str, rate: float = 100.0, kind: str = "RoCE v2", first: int = 3) -> Hca:
    """An HCA with one Ethernet port, whose GIDs begin with a link-local one, then one for each address."""
    gids = (
        Gid(0, "fe80:0000:0000:0000:0ac0:ebff:fe1f:0b2c", "IB/RoCE v1"),
        *(Gid(first + 2 * n, mapped(address), kind) for n, address in enumerate(addresses)),
    )
    return Hca(name, (HcaPort(1, "ACTIVE", "Ethernet", rate, gids),))


def mapped(address: str) -> str:
    first, second, third, fourth = (int(part) for part in address.split("."))
    return f"0000:0000:0000:0000:0000:ffff:{first:02x}{second:02x}:{third:02x}{fourth:02x}"


def near(*hcas: str, far: tuple[str, ...] = ()) -> dict[str, dict[str, str]]:
    """Each HCA near a GPU of its own; the others near none."""
    return {
        f"GPU{index}": {
            **{name: "PIX" if name == one else "SYS" for name in hcas},
            **dict.fromkeys(far, "NODE"),
        }
        for index, one in enumerate(hcas)
    }


def chosen(one: Plan, *hcas: tuple[Hca, ...], **changes: Any) -> dict[str, Choice]:
    """The choices where the nodes have these HCAs, in order of node rank."""
    facts = {
        member.name: replace(
            Facts(interfaces={"eth0": Interface((member.address,), networks=("10.0.0.0/24",))}),
            hcas=found,
            **changes,
        )
        for member, found in zip(one.members, hcas, strict=True)
    }
    return choose(one, facts)


def used(choices: Mapping[str, Choice]) -> list[str]:
    """The ports of each node: `mlx5_0:1 mlx5_1:1`."""
    return [" ".join(port.name for port in choice.hcas) for choice in choices.values()]


def whys(choice: Choice) -> dict[str, str]:
    """{port: code} of the ports that are not used."""
    return {reason.port.name: reason.code for reason in choice.reasons.ports if not reason.taken}


# --- InfiniBand -------------------------------------------------------------------------------------


def test_eight_rails() -> None:
    rails = tuple(ib(name) for name in NAMES)
    choices = chosen(TWO, rails, rails[::-1], distances=near(*NAMES))
    assert used(choices) == [" ".join(f"{name}:1" for name in NAMES)] * 2
    for choice in choices.values():
        assert choice.env == {"NCCL_IB_HCA": "=" + ",".join(f"{name}:1" for name in NAMES)}
        assert [(port.rail, port.gpus) for port in choice.hcas] == [(n, (f"GPU{n}",)) for n in range(8)]
        assert choice.reasons.hcas == "InfiniBand, which all nodes have: 8 of 8 ports, rails matched by name"
        assert choice.link_layers == ("InfiniBand",) and not choice.warning


def test_names_are_in_the_order_of_their_numbers() -> None:
    hcas = (ib("mlx5_10"), ib("mlx5_2"), ib("mlx5_0"))
    assert used(chosen(TWO, hcas, hcas)) == ["mlx5_0:1 mlx5_2:1 mlx5_10:1"] * 2


def test_storage_hcas_far_from_all_gpus_are_left_out() -> None:
    hcas = tuple(ib(f"mlx5_{number}", 200.0) for number in range(10))
    far = ("mlx5_8", "mlx5_9")
    choices = chosen(TWO, hcas, hcas, distances=near(*NAMES, far=far))
    assert used(choices) == [" ".join(f"{name}:1" for name in NAMES)] * 2
    assert whys(choices["gpu-01"]) == {"mlx5_8:1": "far", "mlx5_9:1": "far"}


def test_the_topology_of_a_real_machine() -> None:
    """Eight A100 and ten HCAs of one kind: the two for storage are left out (tests/recorded)."""
    recorded = yaml.safe_load((RECORDED / "a100-x8-topology.yaml").read_text())
    distances = rdma.parse_topology(Result(0, recorded["output"], ""))["distances"]
    hcas = tuple(ib(f"mlx5_{number}", 200.0) for number in range(10))
    choice = chosen(TWO, hcas, hcas, distances=distances)["gpu-01"]
    assert used({"": choice}) == [" ".join(f"{name}:1" for name in NAMES)]
    assert choice.hcas[2].gpus == ("GPU2", "GPU3")


@pytest.mark.parametrize(
    "distances",
    [{}, near(far=("mlx5_0", "mlx5_1")), {"GPU0": {"mlx5_0": "PIX"}, "GPU1": {}}],
    ids=["unknown", "none is near", "half known"],
)
def test_where_no_hca_is_known_to_be_farther_than_others_all_are_taken(distances: Any) -> None:
    hcas = (ib("mlx5_0"), ib("mlx5_1"))
    assert used(chosen(TWO, hcas, hcas, distances=distances)) == ["mlx5_0:1 mlx5_1:1"] * 2


def test_a_slower_port_beside_faster_ones_is_left_out() -> None:
    hcas = (ib("mlx5_0"), ib("mlx5_1", 100.0), ib("mlx5_2"))
    choices = chosen(TWO, hcas, hcas)
    assert used(choices) == ["mlx5_0:1 mlx5_2:1"] * 2
    (left,) = [reason for reason in choices["gpu-01"].reasons.ports if not reason.taken]
    assert (left.code, left.why) == ("slower", "100 Gb/s beside 400 Gb/s")


def test_a_slow_port_that_stands_alone_is_taken() -> None:
    assert used(chosen(TWO, (ib("mlx5_1", 100.0),), (ib("mlx5_1", 100.0),))) == ["mlx5_1:1"] * 2


def test_two_ports_of_one_hca() -> None:
    both = Hca(
        "mlx5_0", (HcaPort(1, "ACTIVE", "InfiniBand", 200.0), HcaPort(2, "ACTIVE", "InfiniBand", 200.0))
    )
    one = Hca("mlx5_0", (HcaPort(1, "ACTIVE", "InfiniBand", 200.0), HcaPort(2, "DOWN", "InfiniBand", 10.0)))
    assert used(chosen(TWO, (both,), (both,))) == ["mlx5_0:1 mlx5_0:2"] * 2
    choices = chosen(TWO, (both,), (one,))
    assert used(choices) == ["mlx5_0:1"] * 2
    assert whys(choices["gpu-01"]) == {"mlx5_0:2": "rail"} and whys(choices["gpu-02"]) == {"mlx5_0:2": "down"}


# --- rails ------------------------------------------------------------------------------------------


def test_a_rail_that_is_down_on_one_node_is_left_out_on_all() -> None:
    rails = tuple(ib(name) for name in NAMES)
    broken = tuple(ib(name, state="DOWN") if name == "mlx5_3" else ib(name) for name in NAMES)
    choices = chosen(THREE, rails, broken, rails)
    assert used(choices) == [" ".join(f"{name}:1" for name in NAMES if name != "mlx5_3")] * 3
    (left,) = [reason for reason in choices["gpu-03"].reasons.ports if not reason.taken]
    assert (left.code, left.why) == ("rail", "its rail is missing on gpu-02: mlx5_3:1, it is DOWN")
    assert choices["gpu-01"].hcas[3].rail == 3 and choices["gpu-01"].hcas[3].name == "mlx5_4:1"


def test_each_of_two_nodes_lacks_another_rail() -> None:
    """As many ports on both, but not the same ones: pairing by position would cross all rails between."""
    first = tuple(ib(name, state="DOWN" if name == "mlx5_2" else "ACTIVE") for name in NAMES[:4])
    second = tuple(ib(name, state="DOWN" if name == "mlx5_1" else "ACTIVE") for name in NAMES[:4])
    assert used(chosen(TWO, first, second)) == ["mlx5_0:1 mlx5_3:1"] * 2


def test_an_hca_that_one_node_does_not_have_at_all() -> None:
    choices = chosen(TWO, tuple(ib(name) for name in NAMES), tuple(ib(name) for name in NAMES[:4]))
    assert used(choices) == [" ".join(f"{name}:1" for name in NAMES[:4])] * 2
    assert set(whys(choices["gpu-01"]).values()) == {"rail"}


def test_a_link_that_came_up_at_half_its_rate_is_left_out_on_all() -> None:
    rails = tuple(ib(name) for name in NAMES[:4])
    degraded = tuple(ib(name, 200.0 if name == "mlx5_1" else 400.0) for name in NAMES[:4])
    choices = chosen(TWO, rails, degraded)
    assert used(choices) == ["mlx5_0:1 mlx5_2:1 mlx5_3:1"] * 2
    assert "200 Gb/s beside 400 Gb/s" in choices["gpu-01"].reasons.ports[1].why


def test_names_that_differ_between_nodes_match_by_position() -> None:
    first, second = (ib("mlx5_0"), ib("mlx5_1")), (ib("rocep10s0"), ib("rocep2s0"))
    choices = chosen(TWO, first, second)
    assert used(choices) == ["mlx5_0:1 mlx5_1:1", "rocep2s0:1 rocep10s0:1"]
    assert choices["gpu-02"].env == {"NCCL_IB_HCA": "=rocep2s0:1,rocep10s0:1"}
    assert choices["gpu-02"].reasons.hcas.endswith("rails matched by position")


def test_names_of_which_some_are_the_same_by_chance_match_by_position() -> None:
    """Each node has a name that the other does not have: that mlx5_0 is on both says nothing."""
    choices = chosen(TWO, (ib("mlx5_0"), ib("mlx5_1")), (ib("mlx5_0"), ib("rocep1s0")))
    assert used(choices) == ["mlx5_0:1 mlx5_1:1", "mlx5_0:1 rocep1s0:1"]
    assert choices["gpu-01"].reasons.hcas.endswith("rails matched by position")


def test_names_that_mean_something_else_on_the_other_node_match_by_position() -> None:
    """The storage HCA was found first here, and last there."""
    first = (ib("mlx5_0", 100.0), ib("mlx5_1"), ib("mlx5_2"))
    second = (ib("mlx5_0"), ib("mlx5_1"), ib("mlx5_2", 100.0))
    choices = chosen(TWO, first, second)
    assert used(choices) == ["mlx5_1:1 mlx5_2:1", "mlx5_0:1 mlx5_1:1"]
    assert choices["gpu-01"].reasons.hcas.endswith("rails matched by position")


def test_counts_that_differ_with_names_that_differ_are_all_kept() -> None:
    choices = chosen(TWO, (ib("mlx5_0"), ib("mlx5_1")), (ib("rocep1s0"),))
    assert used(choices) == ["mlx5_0:1 mlx5_1:1", "rocep1s0:1"]
    for choice in choices.values():
        assert choice.warning == (
            "rails cannot be matched: names differ between nodes, and gpu-01 has 2, gpu-02 has 1"
        )


# --- RoCE -------------------------------------------------------------------------------------------


def test_roce() -> None:
    choices = chosen(TWO, (roce("mlx5_0", "10.0.0.11"),), (roce("rocep1s0", "10.0.0.12"),))
    assert used(choices) == ["mlx5_0:1", "rocep1s0:1"]
    assert choices["gpu-01"].link_layers == ("Ethernet",)
    assert choices["gpu-01"].reasons.hcas == "RoCE, which all nodes have: 1 of 1 ports"
    assert choices["gpu-02"].env == {"NCCL_IB_HCA": "=rocep1s0:1"}


def test_a_bond() -> None:
    choices = chosen(TWO, (roce("mlx5_bond_0", "10.0.0.11"),), (roce("mlx5_bond_0", "10.0.0.12"),))
    assert used(choices) == ["mlx5_bond_0:1"] * 2


def test_ports_without_an_ipv4_gid_of_roce_v2_are_left_out() -> None:
    def hcas(address: str) -> tuple[Hca, ...]:
        return (roce("mlx5_0", address), roce("mlx5_1"), roce("mlx5_2", address, kind="IB/RoCE v1"))

    choices = chosen(TWO, hcas("10.0.0.11"), hcas("10.0.0.12"))
    assert used(choices) == ["mlx5_0:1"] * 2
    assert whys(choices["gpu-01"]) == {"mlx5_1:1": "gid", "mlx5_2:1": "gid"}


def test_rails_of_roce_match_by_their_networks() -> None:
    """The HCAs of one network have other names, and other positions, on the other node."""

    def interfaces(node: int) -> dict[str, Interface]:
        return {
            f"eth{rail}": Interface((f"10.1.{rail}.{node}",), networks=(f"10.1.{rail}.0/24",))
            for rail in range(3)
        }

    facts = {
        "gpu-01": Facts(
            interfaces=interfaces(1), hcas=tuple(roce(f"mlx5_{n}", f"10.1.{n}.1") for n in range(3))
        ),
        "gpu-02": Facts(
            interfaces=interfaces(2), hcas=(roce("mlx5_0", "10.1.2.2"), roce("mlx5_1", "10.1.0.2"))
        ),
    }
    choices = choose(TWO, facts)
    assert used(choices) == ["mlx5_0:1 mlx5_2:1", "mlx5_1:1 mlx5_0:1"]
    assert [port.networks for port in choices["gpu-02"].hcas] == [("10.1.0.0/24",), ("10.1.2.0/24",)]
    assert choices["gpu-01"].reasons.hcas.endswith("2 of 3 ports, rails matched by IPv4 network")
    assert whys(choices["gpu-01"]) == {"mlx5_1:1": "rail"}
    assert choices["gpu-01"].warning == (
        "rails are not in the order of devices on gpu-02, as they are on gpu-01, "
        "and NCCL pairs HCAs by that order"
    )


@pytest.mark.parametrize("network", ["10.1.0.0/16", None], ids=["one network", "unknown networks"])
def test_rails_of_roce_whose_networks_tell_nothing_match_by_name(network: str | None) -> None:
    def node(number: int, *rails: int) -> Facts:
        addresses = tuple(f"10.1.{rail}.{number}" for rail in rails)
        known = {"eth0": Interface(addresses, networks=(network,))} if network else {}
        hcas = tuple(roce(f"mlx5_{n}", f"10.1.{n}.{number}") for n in rails)
        return Facts(interfaces=known, hcas=hcas)

    choices = choose(TWO, {"gpu-01": node(1, 0, 1, 2), "gpu-02": node(2, 0, 2)})
    assert used(choices) == ["mlx5_0:1 mlx5_2:1"] * 2


OLD = Versions("3.12.3", "2.60.0", "0.4.0", "2.20.5")


@pytest.mark.parametrize(
    ("versions", "index"),
    [
        (OLD, "3"),
        (replace(OLD, nccl="2.18"), "3"),
        (replace(OLD, nccl="2.21.5"), None),
        (replace(OLD, nccl="2.27.3"), None),
        (replace(OLD, nccl="3.0.1"), None),
        (replace(OLD, nccl=None), None),
        (replace(OLD, nccl="of Debian"), None),
        (None, None),
    ],
)
def test_the_gid_index_is_set_for_old_versions_of_nccl_alone(
    versions: Versions | None, index: str | None
) -> None:
    choices = chosen(TWO, (roce("mlx5_0", "10.0.0.11"),), (roce("mlx5_0", "10.0.0.12"),), versions=versions)
    for choice in choices.values():
        assert choice.env.get("NCCL_IB_GID_INDEX") == index


@pytest.mark.parametrize(
    ("hcas", "index"),
    [
        ((roce("mlx5_0", "10.0.0.11", "10.9.0.11"),), "3"),
        ((roce("mlx5_0", "10.0.0.11", "10.9.0.11"), roce("mlx5_1", "10.8.0.11", first=5)), "5"),
        ((roce("mlx5_0", "10.0.0.11"), roce("mlx5_1", "10.8.0.11", first=5)), None),
        ((ib("mlx5_0"),), None),
    ],
)
def test_the_gid_index_is_one_that_all_ports_of_the_node_have(
    hcas: tuple[Hca, ...], index: str | None
) -> None:
    for choice in chosen(TWO, hcas, hcas, versions=OLD).values():
        assert choice.env.get("NCCL_IB_GID_INDEX") == index


def test_a_gid_index_of_the_user_is_not_touched() -> None:
    hcas = (roce("mlx5_0", "10.0.0.11"),)
    choices = chosen(plan({"nodes.0.env": {"NCCL_IB_GID_INDEX": "5"}}), hcas, hcas, versions=OLD)
    assert "NCCL_IB_GID_INDEX" not in choices["gpu-01"].env
    assert choices["gpu-02"].env["NCCL_IB_GID_INDEX"] == "3"


# --- one link layer ---------------------------------------------------------------------------------

MIXED = (ib("mlx5_0"), roce("mlx5_1", "10.0.0.11"))


@pytest.mark.parametrize(
    ("require", "second", "expected"),
    [
        ("any", MIXED, ["mlx5_0:1", "mlx5_0:1"]),
        ("gdrdma", MIXED, ["mlx5_0:1", "mlx5_0:1"]),
        ("ib", MIXED, ["mlx5_0:1", "mlx5_0:1"]),
        ("roce", MIXED, ["mlx5_1:1", "mlx5_1:1"]),
        ("any", MIXED[1:], ["mlx5_1:1", "mlx5_1:1"]),
        ("any", MIXED[:1], ["mlx5_0:1", "mlx5_0:1"]),
        ("ib", MIXED[1:], ["", ""]),
        ("roce", MIXED[:1], ["", ""]),
    ],
)
def test_infiniband_where_all_nodes_have_it_else_roce(
    require: str, second: tuple[Hca, ...], expected: list[str]
) -> None:
    choices = chosen(plan({"network.require": require}), MIXED, second)
    assert used(choices) == expected
    if expected[0]:
        assert list(whys(choices["gpu-01"]).values()) == ["layer"]


def test_where_a_node_has_nothing_nothing_is_chosen() -> None:
    choices = chosen(THREE, MIXED, (), MIXED)
    assert used(choices) == ["", "", ""] and all(not choice.env for choice in choices.values())
    assert choices["gpu-01"].reasons.hcas == (
        "nothing is chosen, NCCL does it by itself: no active InfiniBand port on gpu-02; "
        "no active RoCE port with a RoCE v2 GID of an IPv4 address on gpu-02"
    )
    assert [port.name for port in choices["gpu-01"].in_play] == ["mlx5_0:1", "mlx5_1:1"]


def test_what_no_link_layer_of_nccl_has_is_not_taken() -> None:
    """As AWS's EFA, which NCCL reaches by a plugin alone."""
    efa = (Hca("rdmap16s27", (HcaPort(1, "ACTIVE", "Unspecified", 100.0),)),)
    choices = chosen(TWO, efa, efa)
    assert used(choices) == ["", ""] and choices["gpu-01"].in_play == ()


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (plan({"nodes": [{"name": "a", "address": "10.0.0.11", "gpus": 1}]}), "on one node"),
        (
            plan({"nodes": [{"name": "a", "address": "10.0.0.11", "gpus": 1}], "runtime.device": "cpu"}),
            "without GPUs",
        ),
    ],
)
def test_where_nothing_goes_over_hcas_none_is_chosen(one: Plan, why: str) -> None:
    choices = chosen(one, MIXED)
    assert used(choices) == [""] and choices["a"].env == {}
    assert choices["a"].reasons.hcas.startswith(why)


# --- what the user set ------------------------------------------------------------------------------

BOTH = (ib("mlx5_0"), ib("mlx5_1"))


@pytest.mark.parametrize(
    ("changes", "expected", "why"),
    [
        ({"network.hcas": ["mlx5_1"]}, "mlx5_1:1", "set in the inventory (network.hcas)"),
        ({"nodes.0.hcas": ["mlx5_1:1"]}, "mlx5_1:1", "set in the inventory (hcas of gpu-01)"),
        (
            {"nodes.0.env": {"NCCL_IB_HCA": "mlx5"}},
            "mlx5_0:1 mlx5_1:1",
            "set in the inventory (env of gpu-01)",
        ),
        ({"env.NCCL_IB_HCA": "^=mlx5_0"}, "mlx5_1:1", "set in the inventory (env or network.nccl_env)"),
        (
            {"network.nccl_env": {"NCCL_IB_HCA": "=mlx5_0:2"}},
            "",
            "set in the inventory (env or network.nccl_env)",
        ),
        ({"network.hcas": "none"}, "", "no HCAs, set in the inventory (network.hcas)"),
        ({"nodes.0.hcas": "none"}, "", "no HCAs, set in the inventory (hcas of gpu-01)"),
        ({"env.NCCL_IB_DISABLE": "1"}, "", "no HCAs, set in the inventory (env or network.nccl_env)"),
        (
            {"network.nccl_env": {"NCCL_NET": "Socket"}},
            "",
            "NCCL_NET is Socket, set in the inventory (env or network.nccl_env)",
        ),
    ],
    ids=str,
)
def test_what_the_user_set_wins(changes: dict[str, Any], expected: str, why: str) -> None:
    choice = chosen(plan(changes), BOTH, BOTH)["gpu-01"]
    assert used({"": choice}) == [expected] and choice.env == {}
    assert choice.reasons.hcas == why
    assert set(whys(choice).values()) <= {"set", "off"}


@pytest.mark.parametrize("env", [{"NCCL_NET": "IB"}, {"NCCL_IB_DISABLE": "0"}])
def test_what_the_user_set_and_leaves_the_choice_open(env: dict[str, str]) -> None:
    assert chosen(plan({"env": env}), BOTH, BOTH)["gpu-01"].env == {"NCCL_IB_HCA": "=mlx5_0:1,mlx5_1:1"}


def test_hcas_that_the_user_named_on_one_node_decide_the_link_layer_of_all() -> None:
    choices = chosen(plan({"nodes.0.hcas": ["mlx5_1"]}), MIXED, MIXED)
    assert used(choices) == ["mlx5_1:1", "mlx5_1:1"]
    assert choices["gpu-01"].env == {} and choices["gpu-02"].env == {"NCCL_IB_HCA": "=mlx5_1:1"}


def test_hcas_that_the_user_turned_off_on_one_node_are_of_no_use_on_the_others() -> None:
    choices = chosen(plan({"nodes.0.hcas": "none"}), BOTH, BOTH)
    assert used(choices) == ["", ""] and choices["gpu-02"].env == {}


# --- the interface ----------------------------------------------------------------------------------

INTERFACES = {
    "lo": Interface(("127.0.0.1",), networks=("127.0.0.0/8",)),
    "docker0": Interface(("172.17.0.1",), networks=("172.17.0.0/16",)),
    "virbr0": Interface(("192.168.122.1",), networks=("192.168.122.0/24",)),
    "eth0": Interface(("192.168.1.5",), networks=("192.168.1.0/24",)),
    "eth1": Interface(("10.0.0.99",), networks=("10.0.0.0/24",)),
    "eth2": Interface(("10.3.0.5",), up=False, networks=("10.3.0.0/24",)),
    "bond0": Interface(("10.0.0.11",), networks=("10.0.0.0/24",)),
}


def test_the_interface_is_the_one_that_carries_the_address() -> None:
    choice = choose(TWO, {"gpu-01": Facts(interfaces=INTERFACES)})["gpu-01"]
    assert choice.interface == "bond0"
    assert [(reason.name, reason.taken, reason.why) for reason in choice.reasons.interfaces] == [
        ("bond0", True, "it carries the node's address 10.0.0.11"),
        ("lo", False, "loopback: it reaches no other node"),
        ("docker0", False, "a bridge or tunnel of containers or virtual machines"),
        ("virbr0", False, "a bridge or tunnel of containers or virtual machines"),
        ("eth0", False, "another network (192.168.1.0/24) than that of the node's address"),
        ("eth1", False, "in the same network, but without the node's address"),
        ("eth2", False, "down"),
    ]


@pytest.mark.parametrize(
    ("changes", "interface", "why"),
    [
        ({"network.interface": "eth1"}, "eth1", "set in the inventory (network.interface)"),
        ({"nodes.0.interface": "eth2"}, "eth2", "set in the inventory (interface of gpu-01)"),
        (
            {"nodes.0.interface": "ib0"},
            "ib0",
            "set in the inventory (interface of gpu-01); it has no IPv4 address there, or is not there",
        ),
        (
            {"env.GLOO_SOCKET_IFNAME": "eth1"},
            "bond0",
            "it carries the node's address 10.0.0.11; GLOO_SOCKET_IFNAME is eth1, "
            "set in the inventory (env or network.nccl_env)",
        ),
    ],
    ids=str,
)
def test_an_interface_that_the_user_set_wins(changes: dict[str, Any], interface: str, why: str) -> None:
    choice = choose(plan(changes), {"gpu-01": Facts(interfaces=INTERFACES)})["gpu-01"]
    first = choice.reasons.interfaces[0]
    assert (choice.interface, first.name, first.taken, first.why) == (interface, interface, True, why)


def test_an_address_that_no_interface_carries() -> None:
    choice = choose(TWO, {"gpu-01": Facts(interfaces={"eth0": Interface(("10.9.9.9",))})})["gpu-01"]
    assert choice.interface is None
    assert [reason.why for reason in choice.reasons.interfaces] == ["it does not carry the node's address"]


def test_a_node_that_stands_alone_takes_loopback() -> None:
    one = plan(base=PROCESS)
    choice = choose(one, {"local": Facts(interfaces=INTERFACES)})["local"]
    assert choice.interface == "lo"
    assert choice.reasons.interfaces[0].why == "loopback: the node stands alone (address: local)"


# --- what follows -----------------------------------------------------------------------------------


def test_the_environment_that_processes_should_have() -> None:
    one = plan({"env.GLOO_SOCKET_IFNAME": "eth9", "nodes.0.env": {"A": "1"}})
    choice = chosen(one, BOTH, BOTH)["gpu-01"]
    found = expected_environment(one.head, choice)
    assert found.items() >= dict(one.head.env).items()
    assert {name: found[name] for name in ("A", "VLLM_HOST_IP", "NCCL_IB_HCA")} == {
        "A": "1",
        "VLLM_HOST_IP": "10.0.0.11",
        "NCCL_IB_HCA": "=mlx5_0:1,mlx5_1:1",
    }
    assert found["NCCL_SOCKET_IFNAME"] == "=eth0" and found["TP_SOCKET_IFNAME"] == "eth0"
    assert found["GLOO_SOCKET_IFNAME"] == "eth9"
    assert "NCCL_SOCKET_IFNAME" not in expected_environment(one.head, replace(choice, interface=None))


def test_the_explanation_as_tables() -> None:
    hcas = (ib("mlx5_0"), ib("mlx5_1", state="DOWN"))
    choices = chosen(TWO, hcas, hcas, distances=near("mlx5_0", "mlx5_1"))
    (interfaces, interface_rows), (ports, port_rows), (variables, variable_rows) = explanation(TWO, choices)
    assert interfaces == ("node", "interface", "addresses", "", "why")
    assert interface_rows[0] == (
        *("gpu-01", "eth0", "10.0.0.11", "used"),
        "it carries the node's address 10.0.0.11",
    )
    assert ports == ("node", "HCA", "state", "link layer", "Gb/s", "near", "rail", "", "why")
    assert port_rows[:3] == (
        ("gpu-01", "all", *[""] * 6, "InfiniBand, which all nodes have: 1 of 2 ports"),
        (
            *("gpu-01", "mlx5_0:1", "ACTIVE", "InfiniBand", "400", "GPU0", "0", "used"),
            "active, InfiniBand, 400 Gb/s, near GPU0",
        ),
        ("gpu-01", "mlx5_1:1", "DOWN", "InfiniBand", "400", "GPU1", "", "not used", "it is DOWN"),
    )
    assert (variables, variable_rows[0]) == (
        ("node", "variable", "value"),
        ("gpu-01", "NCCL_IB_HCA", "=mlx5_0:1"),
    )


def test_the_explanation_of_nodes_without_hcas() -> None:
    _, (_, rows) = explanation(TWO, chosen(TWO, (), ()))
    assert [row[:2] for row in rows] == [("gpu-01", "none"), ("gpu-02", "none")]
    assert rows[0][-1].startswith("nothing is chosen, NCCL does it by itself")


def test_the_explanation_as_json() -> None:
    first, second = explanation_json(TWO, chosen(TWO, MIXED, MIXED))["nodes"]
    assert (first["node"], first["interface"], first["env"]) == (
        *("gpu-01", "eth0"),
        {"NCCL_IB_HCA": "=mlx5_0:1"},
    )
    assert [(port["name"], port["used"], port["code"], port["rail"]) for port in second["hcas"]] == [
        ("mlx5_0:1", True, "taken", 0),
        ("mlx5_1:1", False, "layer", None),
    ]
    assert [interface["name"] for interface in second["interfaces"]] == ["eth0"]
