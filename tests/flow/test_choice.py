"""HCAs that are chosen: what `up` writes of it, what `check` and `verify --explain` say, over whole facts."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from fakes import FakeFleet, Outcome

from cluster.steps import Result

Clusterctl = Callable[..., Outcome]


def infiniband(*names: str, down: str = "") -> Result:
    """As the kernel shows HCAs, each with a port of 400 Gb/s."""
    lines = []
    for name in names:
        port = f"{name}/ports/1"
        lines += [
            f"{name}/hca:1",
            f"{name}/device/numa_node:0",
            f"{port}/state:{'1: DOWN' if name == down else '4: ACTIVE'}",
            f"{port}/link_layer:InfiniBand",
            f"{port}/rate:400 Gb/sec (4X NDR)",
            f"{port}/gids/0:fe80:0000:0000:0000:a088:c203:00be:1b2c",
        ]
    return Result(0, "".join(f"{line}\n" for line in lines), "")


DEVICES = Result(
    0, '{"python": "3.12.3", "ray": "2.60.0", "vllm": "0.33.0", "infiniband": ["rdma_cm", "uverbs0"]}\n', ""
)


@pytest.fixture
def rails(fleet: FakeFleet) -> FakeFleet:
    """Other names on the second node, where one port is down."""
    fleet.facts = {
        "gpu-01": {"hcas": infiniband("mlx5_0", "mlx5_1"), "inside": DEVICES},
        "gpu-02": {
            "hcas": infiniband("ibp10s0", "ibp9s0", "ibp26s0", down="ibp26s0"),
            "inside": DEVICES,
        },
    }
    return fleet


CONTENTS = {"gpu-01": "NCCL_IB_HCA==mlx5_0:1,mlx5_1:1\n", "gpu-02": "NCCL_IB_HCA==ibp9s0:1,ibp10s0:1\n"}


@pytest.mark.usefixtures("rails")
def test_a_dry_run_shows_the_file_of_each_node(clusterctl: Clusterctl) -> None:
    outcome = clusterctl("up", "--dry-run")
    assert outcome.code == 0
    lines = [line.strip() for line in outcome.lines if "network.env" in line]
    assert lines == [
        f"{node}  write .clusterctl/demo/{node}/network.env (mode 0644, {len(content)} bytes)"
        for node, content in CONTENTS.items()
    ]


def test_up_writes_it(clusterctl: Clusterctl, rails: FakeFleet) -> None:
    clusterctl("up")
    assert {name: node.files["network.env"] for name, node in rails.nodes.items()} == CONTENTS


def test_without_hcas_it_is_not_written(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    clusterctl("up")
    assert not any("network.env" in node.files for node in fleet.nodes.values())


@pytest.mark.usefixtures("rails")
def test_check_warns_of_what_a_port_that_is_down_costs(clusterctl: Clusterctl) -> None:
    outcome = clusterctl("check")
    (line,) = [line for line in outcome.lines if "ib-port-down" in line]
    assert "gpu-02" in line and "ibp26s0 port 1 is DOWN, so 2 ports with 800 Gb/s remain" in line
    assert "warning" in line


@pytest.mark.usefixtures("rails")
def test_verify_explains_each_port(clusterctl: Clusterctl) -> None:
    outcome = clusterctl("verify", "--explain")
    assert (outcome.code, outcome.err) == (0, "")
    shown = [" ".join(line.split()) for line in outcome.lines]
    assert "gpu-02 ibp26s0:1 DOWN InfiniBand 400 not used it is DOWN" in shown
    assert "gpu-02 all InfiniBand, which all nodes have: 2 of 3 ports, rails matched by position" in shown
    assert "gpu-01 NCCL_IB_HCA =mlx5_0:1,mlx5_1:1" in shown
    assert "gpu-01 eth0 10.0.0.11 used it carries the node's address 10.0.0.11" in shown


def test_verify_tells_what_runs_with_another_choice(clusterctl: Clusterctl, rails: FakeFleet) -> None:
    clusterctl("up")
    assert "another choice" not in clusterctl("verify", "--explain").out
    rails.facts["gpu-01"]["hcas"] = infiniband("mlx5_0", "mlx5_1", down="mlx5_1")
    rails.facts["gpu-02"]["hcas"] = infiniband("ibp9s0")
    told = [line for line in clusterctl("verify", "--explain").lines if "another choice" in line]
    assert [line.partition(":")[0] for line in told] == ["gpu-01", "gpu-02"]
    assert json.loads(clusterctl("verify", "--explain", "--json").out)["older"] == ["gpu-01", "gpu-02"]


@pytest.mark.usefixtures("rails")
def test_verify_explains_for_programs(clusterctl: Clusterctl) -> None:
    nodes = json.loads(clusterctl("verify", "--explain", "--json").out)["nodes"]
    assert [node["interface"] for node in nodes] == ["eth0", "eth0"]
    assert [[hca["name"] for hca in node["hcas"] if hca["used"]] for node in nodes] == [
        ["mlx5_0:1", "mlx5_1:1"],
        ["ibp9s0:1", "ibp10s0:1"],
    ]
    assert [hca["code"] for hca in nodes[1]["hcas"]] == ["taken", "taken", "down"]
