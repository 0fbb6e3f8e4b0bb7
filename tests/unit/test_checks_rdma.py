"""InfiniBand and RoCE: without any of this NCCL takes TCP, and says so to nobody."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from findings import complete, found, found_inside, hca, is_mended, port, roce_port, told
from samples import plan

from cluster.checks import preflight
from cluster.facts.hardware import Hca

DOWN = hca(1, port("DOWN"))
NAMED = {"network.hcas": ["mlx5_0", "mlx5_1"]}


def of_rdma(problems: list[Any]) -> list[tuple[str, str, str]]:
    """Without the difference to the other node, which tests of differences show."""
    return told([problem for problem in problems if problem.id != "hca-differs"])


# --- which HCAs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "missing"),
    [
        (["mlx5_0", "mlx5_1:1"], []),
        (["mlx5_0:1", "mlx5_9"], ["mlx5_9"]),
        (["mlx5_10"], ["mlx5_10"]),
        (["mlx5"], ["mlx5"]),
    ],
)
def test_hcas_that_are_named_and_not_there(named: list[str], missing: list[str]) -> None:
    problems = [p for p in found(plan({"nodes.1.hcas": named})) if p.id == "hca-unknown"]
    assert [(p.node, p.severity, p.found) for p in problems] == [
        ("gpu-02", "error", f"no HCA {name}") for name in missing
    ]
    for problem in problems:
        assert problem.expected == "one of: mlx5_0, mlx5_1"
        assert "`ls /sys/class/infiniband` on gpu-02" in problem.remedy


# --- ports ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "severity"),
    [
        ({}, "warning"),
        (NAMED, "error"),
        ({"network.hcas": ["mlx5_1:1"]}, "error"),
        ({"network.hcas": ["mlx5_0"]}, None),
        ({"network.hcas": "none"}, None),
    ],
    ids=str,
)
def test_a_port_that_is_down(changes: dict[str, Any], severity: str | None) -> None:
    problems = found(plan(changes), hcas=(hca(0), DOWN))
    assert of_rdma(problems) == ([("ib-port-down", "gpu-02", severity)] if severity else [])
    for problem in problems:
        if problem.id == "ib-port-down":
            assert "`ibstat mlx5_1` on gpu-02" in problem.remedy
            cost = ", so no node uses its rail and one port with 400 Gb/s remains" if not changes else ""
            assert problem.found == f"mlx5_1 port 1 is DOWN{cost}"


def test_without_hcas_a_port_that_is_down_is_no_difference_either() -> None:
    assert found(plan({"network.hcas": "none"}), hcas=(hca(0), DOWN)) == []
    assert found(plan({"network.hcas": ["mlx5_0"]}), hcas=(hca(0), DOWN)) == []


@pytest.mark.parametrize("state", ["INIT", "ARMED", "DOWN", ""])
def test_only_active_is_active(state: str) -> None:
    problems = found(plan(NAMED), hcas=(hca(0), hca(1, port(state))))
    assert of_rdma(problems) == [("ib-port-down", "gpu-02", "error")]


def test_of_two_ports_only_the_named_one_counts() -> None:
    two_ports = Hca("mlx5_0", (port(), port("DOWN", number=2)))
    assert of_rdma(found(plan({"network.hcas": ["mlx5_0:1"]}), hcas=(two_ports,))) == []
    assert of_rdma(found(plan({"network.hcas": ["mlx5_0:2"]}), hcas=(two_ports,))) == [
        ("ib-port-down", "gpu-02", "error")
    ]


@pytest.mark.parametrize(
    ("ports", "fires"),
    [
        ((port(), roce_port()), True),
        ((port(), port()), False),
        ((roce_port(), roce_port()), False),
        ((port(), replace(roce_port(), state="DOWN")), False),
        ((port(), port(link_layer="")), False),
    ],
)
def test_infiniband_and_ethernet_mixed_by_the_user(ports: Any, fires: bool) -> None:
    """Left to clusterctl, one link layer is chosen, and nothing is mixed."""
    hcas = tuple(hca(number, one) for number, one in enumerate(ports))
    assert "ib-mixed-links" not in {problem.id for problem in found(plan(), hcas=hcas)}
    problems = found(plan(NAMED), hcas=hcas)
    mixed = [problem for problem in problems if problem.id == "ib-mixed-links"]
    assert told(mixed) == ([("ib-mixed-links", "gpu-02", "warning")] if fires else [])
    for problem in mixed:
        assert problem.found == "active HCAs of Ethernet and InfiniBand" and "network.hcas" in problem.remedy


def test_infiniband_and_ethernet_mixed_where_nothing_could_be_chosen() -> None:
    mixed = (hca(0), hca(1, roce_port()))
    problems = found(plan(), node=0, hcas=())
    assert told(problems) == [("hca-differs", "gpu-01", "warning")]
    facts = complete(plan()) | {"gpu-01": replace(complete(plan())["gpu-01"], hcas=())}
    facts["gpu-02"] = replace(facts["gpu-02"], hcas=mixed)
    assert told(list(preflight(plan(), facts))) == [
        ("ib-mixed-links", "gpu-02", "warning"),
        ("hca-differs", "gpu-01", "warning"),
    ]


# --- ports that are down, and whether anybody misses them -------------------------------------------


def down_everywhere(hcas: tuple[Hca, ...], changes: dict[str, Any] | None = None) -> list[Any]:
    one = plan(changes)
    return list(preflight(one, complete(one, hcas=hcas)))


def test_a_second_port_that_nobody_connected_is_no_news() -> None:
    dual = (Hca("mlx5_0", (port(), port("DOWN", number=2))), hca(1))
    assert down_everywhere(dual) == []
    only_here = found(plan(), node=0, hcas=(Hca("mlx5_0", (port(), port(number=2))), hca(1)))
    assert told(only_here) == [("hca-differs", "gpu-02", "warning")]


def test_a_rail_that_is_down_on_all_nodes_is_news() -> None:
    problems = down_everywhere((hca(0), DOWN))
    assert told(problems) == [
        ("ib-port-down", "gpu-01", "warning"),
        ("ib-port-down", "gpu-02", "warning"),
    ]
    assert problems[0].found == "mlx5_1 port 1 is DOWN, so one port with 400 Gb/s remains"


def test_a_second_port_that_another_node_has_connected_is_missed() -> None:
    dual = Hca("mlx5_0", (port(), port(number=2)))
    half = Hca("mlx5_0", (port(), port("DOWN", number=2)))
    facts = complete(plan(), hcas=(dual,))
    facts["gpu-02"] = replace(facts["gpu-02"], hcas=(half,))
    problems = list(preflight(plan(), facts))
    assert ("ib-port-down", "gpu-02", "warning") in told(problems)


def test_an_ethernet_port_that_is_down_beside_infiniband_is_no_news() -> None:
    assert down_everywhere((hca(0), hca(1), hca(2, replace(roce_port(), state="DOWN")))) == []


def test_on_one_node_nothing_is_missed() -> None:
    alone = plan({"nodes": [{"name": "gpu-01", "address": "10.0.0.11", "gpus": 2}]})
    assert found(alone, node=0, hcas=(hca(0), DOWN)) == []


# --- HCAs that not all nodes have -------------------------------------------------------------------


@pytest.mark.parametrize("require", ["any", "socket"])
def test_a_node_without_hcas(require: str) -> None:
    (problem,) = found(plan({"network.require": require}), hcas=())
    assert told([problem]) == [("hca-differs", "gpu-02", "warning")]
    assert problem.found.startswith("no active InfiniBand port, so no HCAs are chosen")
    assert problem.expected == "what gpu-01 has" and "network.hcas to none" in problem.remedy


@pytest.mark.parametrize("require", ["ib", "gdrdma"])
def test_a_node_without_the_hcas_that_are_required(require: str) -> None:
    (problem,) = found(plan({"network.require": require}), hcas=())
    assert told([problem]) == [("rdma-missing", "gpu-02", "error")]
    assert problem.found == "no active InfiniBand port" and is_mended(problem)
    assert problem.expected == f"HCAs, as network.require is {require}"


@pytest.mark.parametrize(("require", "errors"), [("any", 0), ("ib", 0), ("gdrdma", 0), ("roce", 2)])
def test_infiniband_alone_is_no_roce(require: str, errors: int) -> None:
    problems = found(plan({"network.require": require}))
    assert told(problems) == [("rdma-missing", f"gpu-0{n}", "error") for n in range(1, errors + 1)]


@pytest.mark.parametrize(("require", "fires"), [("any", False), ("ib", True)])
def test_hcas_that_the_user_turned_off(require: str, fires: bool) -> None:
    problems = found(plan({"env.NCCL_IB_DISABLE": "1", "network.require": require}))
    nodes = ("gpu-01", "gpu-02") if fires else ()
    assert told(problems) == [("rdma-missing", node, "error") for node in nodes]
    for problem in problems:
        assert problem.found == "no HCAs, set in the inventory (env or network.nccl_env)"


def test_hcas_that_the_user_turned_off_on_one_node() -> None:
    problems = found(plan({"nodes.0.hcas": "none"}))
    assert told(problems) == [("hca-differs", "gpu-01", "warning")]


def test_rails_that_cannot_be_matched() -> None:
    others = tuple(Hca(f"rocep{n}s0", (port(),)) for n in range(3))
    problems = [problem for problem in found(plan(), hcas=others, distances={}) if problem.id == "hca-rails"]
    assert told(problems) == [("hca-rails", "gpu-01", "warning")]
    assert problems[0].found.endswith("gpu-01 has 2, gpu-02 has 3") and is_mended(problems[0])
    as_many = found(plan(), hcas=others[:2], distances={})
    assert as_many == []


# --- no RDMA at all ---------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"network.hcas": "none"}])
def test_nodes_without_hcas_are_silent(changes: dict[str, Any]) -> None:
    for node in (0, 1):
        problems = found(plan(changes), node=node, hcas=(), gpudirect=(), distances={}, acs_bridges=12)
        assert of_rdma(problems) == []


# --- what a container gets of it --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("devices", "fires"),
    [((), True), (("rdma_cm",), True), (("rdma_cm", "uverbs0"), False), (("uverbs3",), False)],
)
def test_devices_in_the_container(devices: tuple[str, ...], fires: bool) -> None:
    problems = found_inside(plan(), infiniband=devices)
    assert told(problems) == ([("ib-device-missing", "gpu-02", "error")] if fires else [])
    for problem in problems:
        assert "`modprobe ib_uverbs`" in problem.remedy and "2 active HCA ports" in problem.found
    assert found_inside(plan({"network.hcas": "none"}), infiniband=devices) == []


@pytest.mark.parametrize("limit", [64 * 1024, 8 * 1024**2])
def test_memory_that_may_be_pinned(limit: int) -> None:
    (problem,) = found_inside(plan(), memlock=limit)
    assert told([problem]) == [("ib-memlock", "gpu-02", "error")]
    assert problem.found == f"{limit // 1024} KiB of memory may be pinned" and is_mended(problem)
    assert found_inside(plan(), memlock=None) == []
    assert found_inside(plan({"network.hcas": "none"}), memlock=limit) == []


def test_processes_are_told_of_limits_conf() -> None:
    processes = plan({"runtime": {"engine": "process", "venv": "/opt/venv"}})
    (problem,) = found_inside(processes, memlock=65536)
    assert "`* - memlock unlimited` in /etc/security/limits.conf" in problem.remedy


# --- RoCE -------------------------------------------------------------------------------------------

ROCE = (hca(0, roce_port()), hca(1, roce_port()))


@pytest.mark.parametrize(
    ("forced", "port_", "severity"),
    [
        (None, roce_port(), None),
        ("-1", roce_port(), None),
        ("3", roce_port(), None),
        ("1", roce_port(), "error"),
        (None, roce_port(kind="IB/RoCE v1"), "warning"),
        (None, port(link_layer="Ethernet"), "warning"),
        (None, replace(roce_port(kind="IB/RoCE v1"), state="DOWN"), None),
        (None, port(), None),
        ("²", roce_port(), None),
    ],
)
def test_gids(forced: str | None, port_: Any, severity: str | None) -> None:
    changes = {} if forced is None else {"nodes.1.env": {"NCCL_IB_GID_INDEX": forced}}
    problems = [p for p in found(plan(changes), hcas=(hca(0, port_),)) if p.id == "roce-gid"]
    assert told(problems) == ([("roce-gid", "gpu-02", severity)] if severity else [])
    assert all(map(is_mended, problems))


def gids_told(hcas: tuple[Hca, ...]) -> list[tuple[str, str]]:
    """(node, what was found) where all nodes have these HCAs."""
    problems = preflight(plan(), complete(plan(), hcas=hcas, distances={}))
    return [(problem.node, problem.found) for problem in problems if problem.id == "roce-gid"]


def test_a_port_that_is_left_out_for_want_of_a_gid_is_missed_if_it_is_no_slower() -> None:
    bare = port(link_layer="Ethernet")
    missed = "mlx5_1 port 1 has no RoCE v2 GID of an IPv4 address"
    assert gids_told((hca(0, roce_port()), hca(1, bare))) == [("gpu-01", missed), ("gpu-02", missed)]
    assert gids_told((hca(0, roce_port()), hca(1, replace(bare, rate=25.0)))) == []
    assert gids_told((hca(0), hca(1, bare))) == []


def test_a_gid_index_that_is_forced_matters_to_no_infiniband() -> None:
    forced = plan({"env.NCCL_IB_GID_INDEX": "1"})
    assert found(forced) == []
    (problem,) = [p for p in found(forced, hcas=ROCE[:1]) if p.id == "roce-gid"]
    assert problem.expected == "one of [3]" and "Leave NCCL_IB_GID_INDEX out" in problem.remedy


# --- GPUs and HCAs ----------------------------------------------------------------------------------


def test_no_way_from_hcas_to_gpu_memory() -> None:
    (problem,) = found(plan(), gpudirect=())
    assert told([problem]) == [("gdr-off", "gpu-02", "warning")]
    assert "`sudo modprobe nvidia_peermem` on gpu-02" in problem.remedy
    for way in ("peermem", "dma-buf"):
        assert found(plan(), gpudirect=(way,)) == []
    assert found(plan({"network.hcas": "none"}), gpudirect=()) == []


def test_on_one_node_nothing_goes_over_hcas() -> None:
    alone = plan({"nodes": [{"name": "gpu-01", "address": "10.0.0.11", "gpus": 2}]})
    assert found(alone, node=0, gpudirect=(), distances={"GPU0": {"mlx5_0": "SYS"}}) == []


@pytest.mark.parametrize(
    ("cells", "fires"),
    [
        ({"mlx5_0": "PIX", "mlx5_1": "SYS"}, False),
        ({"mlx5_0": "PXB", "mlx5_1": "NODE"}, False),
        ({"mlx5_0": "PHB", "mlx5_1": "SYS"}, True),
        ({"mlx5_0": "NODE"}, True),
        ({}, False),
    ],
)
def test_how_far_gpus_and_hcas_are_apart(cells: dict[str, str], fires: bool) -> None:
    problems = found(plan(), distances={"GPU0": cells, "GPU1": {"mlx5_1": "PIX"}})
    assert told(problems) == ([("gdr-off", "gpu-02", "warning")] if fires else [])
    for problem in problems:
        assert problem.found == "GPU0 share no PCIe switch with an HCA"
        assert "network.nccl_env: {NCCL_NET_GDR_LEVEL: SYS}" in problem.remedy


@pytest.mark.parametrize(("bridges", "fires"), [(0, False), (1, True), (24, True)])
def test_acs(bridges: int, fires: bool) -> None:
    problems = found(plan(), acs_bridges=bridges)
    assert told(problems) == ([("acs-enabled", "gpu-02", "warning")] if fires else [])
    assert found(plan({"network.hcas": "none"}), acs_bridges=bridges) == []
