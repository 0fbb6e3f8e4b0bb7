"""Who does what: ranks, addresses, environment."""

from __future__ import annotations

import pytest
from samples import PROCESS, plan

from cluster.argv import ray, vllm
from cluster.facts import Facts, RayNode
from cluster.join import why_not_joined
from cluster.plan import LOOPBACK
from cluster.render import node_files


def test_the_first_node_is_the_head_and_the_others_follow() -> None:
    ranks = [(member.name, member.node_rank, member.role) for member in plan().members]
    assert ranks == [("gpu-01", 0, "head"), ("gpu-02", 1, "worker")]


def test_a_head_by_name_has_node_rank_0_and_the_rest_keep_their_order() -> None:
    nodes = [{"name": f"n{i}", "address": f"10.0.0.{i}", "gpus": 1} for i in range(1, 5)]
    chosen = plan({"nodes": nodes, "head": "n3"})
    assert [member.name for member in chosen.members] == ["n3", "n1", "n2", "n4"]
    assert chosen.ray_address == "10.0.0.3:6379"
    assert chosen.url == "http://10.0.0.3:8000"


def test_one_address_three_places() -> None:
    changed = plan({"nodes.1.ssh": {"host": "gpu-02.mgmt.example.com"}})
    for member, address in zip(changed.members, ("10.0.0.11", "10.0.0.12"), strict=True):
        words = ray.start(changed, member)
        assert words[words.index("--node-ip-address") + 1] == address
        assert dict(member.env)["VLLM_HOST_IP"] == address
        assert f"a={address} " in node_files(changed, member)[0].content
        joined = [RayNode(address, "any name", True, 2)]
        assert why_not_joined(changed, member, joined) is None


def test_this_machine_is_reached_by_its_loopback_address() -> None:
    local = plan(base=PROCESS)
    assert dict(local.head.env)["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert (local.head.address, local.head.interface) == (LOOPBACK, "lo")
    assert local.url == f"http://{LOOPBACK}:8000"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://10.0.0.11:8000"),
        ("10.0.0.11", "http://10.0.0.11:8000"),
        ("::", "http://10.0.0.11:8000"),
    ],
)
def test_the_url_is_one_that_a_client_reaches(host: str, url: str) -> None:
    assert plan({"serve.host": host}).url == url


def test_the_environment_of_every_process() -> None:
    assert plan().workers[0].env == (
        ("VLLM_HOST_IP", "10.0.0.12"),
        ("RAY_ADDRESS", "10.0.0.11:6379"),
        ("RAY_AUTH_MODE", "disabled"),
        ("RAY_DEDUP_LOGS", "0"),
        ("RAY_COLOR_PREFIX", "0"),
        ("RAY_USAGE_STATS_ENABLED", "0"),
        ("SPT_NOENV", "1"),
        ("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "0"),
    )


def test_what_the_user_wrote_wins_the_nodes_own_most_of_all() -> None:
    changed = plan(
        {
            "env": {"RAY_DEDUP_LOGS": 1, "NCCL_DEBUG": "WARN", "A": "all"},
            "network": {"hcas": ["mlx5_0"], "nccl_env": {"NCCL_DEBUG": "INFO"}},
            "nodes.1.env": {"NCCL_IB_HCA": "mlx5_4", "A": "one"},
        }
    )
    head, worker = (dict(member.env) for member in changed.members)
    assert (head["RAY_DEDUP_LOGS"], head["NCCL_DEBUG"], head["A"]) == ("1", "INFO", "all")
    assert (head["NCCL_IB_HCA"], worker["NCCL_IB_HCA"], worker["A"]) == ("=mlx5_0", "mlx5_4", "one")


@pytest.mark.parametrize(
    ("hcas", "env"),
    [
        ("auto", {}),
        ("none", {"NCCL_IB_DISABLE": "1"}),
        (["mlx5_0", "mlx5_1"], {"NCCL_IB_HCA": "=mlx5_0,mlx5_1"}),
    ],
)
def test_hcas(hcas: object, env: dict[str, str]) -> None:
    found = dict(plan({"network.hcas": hcas}).head.env)
    assert {name: value for name, value in found.items() if name.startswith("NCCL_IB")} == env


def test_a_node_may_have_hcas_an_interface_and_mounts_of_its_own() -> None:
    changed = plan(
        {
            "network": {"hcas": "none", "interface": "eth0"},
            "runtime.mounts": ["/a:/a"],
            "nodes.1.hcas": ["mlx5_9"],
            "nodes.1.interface": "bond0",
            "nodes.1.mounts": ["/b:/b:ro"],
        }
    )
    head, worker = changed.members
    assert (head.hcas, head.interface, head.mounts) == ("none", "eth0", ("/a:/a",))
    assert (worker.hcas, worker.interface, worker.mounts) == (("mlx5_9",), "bond0", ("/a:/a", "/b:/b:ro"))


def test_an_interface_that_the_user_names_is_not_set_again() -> None:
    member = plan({"env": {"GLOO_SOCKET_IFNAME": "bond0"}}).head
    assert member.interface_variables == (("NCCL_SOCKET_IFNAME", "="), ("TP_SOCKET_IFNAME", ""))


def test_who_runs_vllm() -> None:
    with_ray, with_mp = plan(), plan({"serve.executor_backend": "mp"})
    assert [member.name for member in with_ray.servers] == ["gpu-01"]
    assert [member.name for member in with_mp.servers] == ["gpu-01", "gpu-02"]
    assert (with_ray.main_container, with_mp.main_container) == (
        "clusterctl-demo-ray",
        "clusterctl-demo-serve",
    )


def test_figures() -> None:
    sixteen = plan({"nodes.0.gpus": 8, "nodes.1.gpus": 8, "serve.tensor_parallel_size": 16})
    assert sixteen.world_size == 16
    assert sixteen.sizes == "tensor parallel size 16 × pipeline parallel size 1"
    assert plan({"model": {"source": "a/b"}}).served_name == "a/b"
    assert Facts().container("ray") is None
    assert vllm.serve(sixteen, sixteen.head)[1] == "serve"
