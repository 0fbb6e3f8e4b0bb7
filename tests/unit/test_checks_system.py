"""The node under the engine: its name, interface, ports, disks, memory, route, proxies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from findings import GIBIBYTE, found, found_inside, is_mended, model, told
from samples import PROCESS, container, plan

from cluster.facts import RayNode
from cluster.facts.hardware import Disk, Interface, System
from cluster.facts.types import Inside
from cluster.plan import Plan

LOCAL = plan(base=PROCESS)
INSIDE = Inside(infiniband=("uverbs0",))
TO_BE_FETCHED = replace(
    INSIDE, model=model(there=False, cached=True, config=None, files=(), shards=(), index_bytes=None)
)


def warned(id_: str, fires: bool, node: str = "gpu-02") -> list[tuple[str, str, str]]:
    return [(id_, node, "warning")] if fires else []


# --- what the node's own name resolves to -----------------------------------------------------------


@pytest.mark.parametrize(
    ("in_container", "on_node", "fires"),
    [
        (("127.0.1.1",), (), True),
        ((), ("127.0.1.1",), True),
        (("127.0.0.1", "127.0.1.1"), (), True),
        (("127.0.1.1", "10.0.0.12"), (), False),
        (("10.0.0.12",), ("127.0.1.1",), False),
        ((), (), False),
    ],
)
def test_a_name_that_resolves_to_loopback(
    in_container: tuple[str, ...], on_node: tuple[str, ...], fires: bool
) -> None:
    problems = found(
        plan(),
        inside=replace(INSIDE, resolves_to=in_container),
        system=System(hostname="gpu-02", resolves_to=on_node),
    )
    assert told(problems) == warned("gloo-loopback", fires)
    for problem in problems:
        assert problem.expected == "10.0.0.12"
        assert "`10.0.0.12 gpu-02`" in problem.remedy and is_mended(problem)


def test_on_one_local_node_loopback_is_right() -> None:
    assert found_inside(LOCAL, node=0, resolves_to=("127.0.1.1",)) == []


# --- interfaces -------------------------------------------------------------------------------------

LOOPBACK = {"lo": Interface(("127.0.0.1",))}


@pytest.mark.parametrize(
    ("changes", "interfaces", "ids"),
    [
        ({}, {"eth0": Interface(("10.0.0.12",))}, []),
        ({}, {"eth0": Interface(("192.168.1.5", "10.0.0.12"))}, []),
        ({}, {"eth0": Interface(("10.0.0.99",))}, ["nccl-wrong-iface"]),
        ({}, {"eth0": Interface(("10.0.0.12",), up=False)}, ["nccl-no-iface"]),
        ({"nodes.1.interface": "bond0"}, {"eth0": Interface(("10.0.0.12",))}, ["nccl-no-iface"]),
        ({"network.interface": "eth0"}, {"eth0": Interface(("10.0.0.12",), 1500)}, []),
        # The interface is the user's choice; that the address is on another one is theirs too.
        (
            {"nodes.1.interface": "ib0"},
            {"eth0": Interface(("10.0.0.12",), 1500), "ib0": Interface(("10.9.0.12",), 2044)},
            [],
        ),
    ],
    ids=str,
)
def test_the_interface(changes: dict[str, Any], interfaces: dict[str, Interface], ids: list[str]) -> None:
    problems = found(plan(changes), interfaces=LOOPBACK | interfaces)
    assert told(problems) == [(id_, "gpu-02", "error") for id_ in ids]
    assert all(map(is_mended, problems))


def test_interfaces_that_could_not_be_listed_say_nothing() -> None:
    assert found(plan(), interfaces={}) == []


def test_a_local_node_has_no_address_to_be_carried() -> None:
    assert found(LOCAL, node=0, interfaces={"eth0": Interface(("10.0.0.99",))}) == []


# --- ports ------------------------------------------------------------------------------------------

ON_HEAD = {"ray-port-in-use": 6379, "api-port-in-use": 8000}


@pytest.mark.parametrize(("id_", "port"), ON_HEAD.items())
def test_a_port_that_is_taken_on_the_head(id_: str, port: int) -> None:
    (problem,) = found(plan(), node=0, listening=frozenset({22, port}))
    assert told([problem]) == [(id_, "gpu-01", "error")]
    assert f"`ss -ltnp 'sport = :{port}'` on gpu-01" in problem.remedy


@pytest.mark.parametrize("port", ON_HEAD.values())
def test_a_port_that_no_one_needs_there_may_be_taken(port: int) -> None:
    assert found(plan(), node=1, listening=frozenset({22, port})) == []
    assert found(plan(), node=0, listening=frozenset({22, port + 1})) == []


def test_without_ray_its_port_is_free_for_others() -> None:
    assert found(plan({"serve.executor_backend": "mp"}), node=0, listening=frozenset({6379})) == []


def test_our_own_containers_hold_their_ports_and_dead_ones_do_not() -> None:
    ours = tuple(container(plan(), plan().head, role) for role in ("ray", "serve"))
    listening = frozenset(ON_HEAD.values())
    assert found(plan(), node=0, listening=listening, containers=ours) == []
    dead = tuple(container(plan(), plan().head, role, running=False) for role in ("ray", "serve"))
    assert {p.id for p in found(plan(), node=0, listening=listening, containers=dead)} == set(ON_HEAD)


# --- disks ------------------------------------------------------------------------------------------


def disk(use: str, free: float, total: float = 2000.0) -> Disk:
    return Disk(use, f"/{use}", int(free * GIBIBYTE), int(total * GIBIBYTE))


@pytest.mark.parametrize(
    ("use", "free", "total", "severity"),
    [
        ("engine", 0.5, 100, "error"),
        ("engine", 0.999, 1, "error"),
        ("engine", 1, 10, None),
        ("engine", 4.9, 100, "warning"),
        ("engine", 5.1, 100, None),
        ("home", 0.05, 100, "error"),
        ("home", 0.07, 100, None),
        ("cache", 0.5, 100, None),  # the model is there
        ("tmp", 0.5, 100, None),  # a container has its own
    ],
)
def test_a_disk(use: str, free: float, total: float, severity: str | None) -> None:
    problems = found(plan(), disks=(disk(use, free, total),))
    assert told(problems) == ([("disk-full", "gpu-02", severity)] if severity else [])
    for problem in problems:
        assert f"`df -h /{use}` on gpu-02" in problem.remedy and f"/{use} ({use})" in problem.found


@pytest.mark.parametrize(
    ("pull", "image", "free", "fires"),
    [
        ("missing", None, 39.9, True),
        ("missing", None, 40, False),
        ("missing", "sha256:" + "a" * 64, 39.9, False),
        ("never", None, 39.9, False),
    ],
)
def test_room_for_an_image_that_is_still_to_be_pulled(
    pull: str, image: str | None, free: float, fires: bool
) -> None:
    problems = found(plan({"runtime.pull": pull}), image_id=image, disks=(disk("engine", free, 100),))
    of_disks = [problem for problem in problems if problem.id == "disk-full"]
    assert told(of_disks) == warned("disk-full", fires)
    for problem in of_disks:
        assert "still to be pulled" in problem.expected and "`docker image prune`" in problem.remedy


def test_a_model_that_is_not_there_needs_room_in_the_cache() -> None:
    assert told(found(plan(), inside=TO_BE_FETCHED, disks=(disk("cache", 0.5),))) == [
        ("disk-full", "gpu-02", "error")
    ]
    from_a_path = plan({"model.source": "/models/llama"})
    assert found(from_a_path, inside=replace(INSIDE, model=model()), disks=(disk("cache", 0.5),)) == []


def test_processes_write_into_tmp() -> None:
    assert told(found(LOCAL, node=0, disks=(disk("tmp", 0.5),))) == [("disk-full", "local", "error")]


def test_one_disk_for_everything_is_named_once() -> None:
    everything = tuple(Disk(use, "/", 1024, 100 * GIBIBYTE) for use in ("home", "tmp", "cache", "engine"))
    assert told(found(plan(), disks=everything)) == [("disk-full", "gpu-02", "error")]


# --- memory -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "available", "severity"),
    [
        # 8 GB of weights over two nodes, 2 GPUs each: 2 GB pass through at once; a CPU keeps its 4 GB.
        ("cuda", 1_999_999_999, "warning"),
        ("cuda", 2_000_000_000, None),
        ("cpu", 3_999_999_999, "error"),
        ("cpu", 4_000_000_000, None),
        ("cpu", None, None),
    ],
)
def test_memory_to_load_the_model(device: str, available: int | None, severity: str | None) -> None:
    one = plan({"runtime.device": device})
    problems = found(one, system=System(hostname="gpu-02", memory_available=available))
    assert told(problems) == ([("host-oom", "gpu-02", severity)] if severity else [])


def test_a_server_that_runs_has_loaded_it_already() -> None:
    cpu = plan({"runtime.device": "cpu"})
    serve = container(cpu, cpu.head, "serve")
    system = System(hostname="gpu-01", memory_available=1024)
    assert found(cpu, node=0, system=system, containers=(serve,)) == []
    assert told(found(cpu, node=0, system=system)) == [("host-oom", "gpu-01", "error")]


# --- the way out ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "facts", "named"),
    [
        ({}, {}, None),
        ({}, {"image_id": None}, "registry.local/vllm-ray:v0.33.0"),
        ({"runtime.pull": "never"}, {"inside": INSIDE}, None),
        (
            {},
            {"inside": TO_BE_FETCHED},
            "meta-llama/Llama-3.1-8B",
        ),
    ],
)
def test_a_node_without_a_default_route_that_has_something_to_fetch(
    changes: dict[str, Any], facts: dict[str, Any], named: str | None
) -> None:
    problems = found(plan(changes), default_route=None, **facts)
    assert told(problems) == warned("no-default-route", named is not None)
    for problem in problems:
        assert f"{named} to be fetched" in problem.found and "`ip route`" in problem.remedy
    assert found(plan(changes), default_route="eth0", **facts) == []


# --- proxies ----------------------------------------------------------------------------------------

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    "no_proxy",
    [
        "10.0.0.11,10.0.0.12",
        " 10.0.0.11 , 10.0.0.12 ",
        "10.0.0.0/24",
        "10.0.0.0/8,localhost",
        "10.0.0.1/24",
        "*",
        ".0.0.11,.0.0.12",
        "*.0.0.11,*.0.0.12",
    ],
)
def test_a_proxy_from_which_all_nodes_are_excepted(no_proxy: str) -> None:
    assert found_inside(plan(), proxies={"http_proxy": PROXY, "no_proxy": no_proxy}) == []
    assert found_inside(plan(), proxies={"HTTPS_PROXY": PROXY, "NO_PROXY": no_proxy}) == []


@pytest.mark.parametrize(
    ("proxies", "left_out"),
    [
        ({"http_proxy": PROXY}, "10.0.0.11, 10.0.0.12"),
        ({"HTTP_PROXY": PROXY, "NO_PROXY": "localhost,127.0.0.1"}, "10.0.0.11, 10.0.0.12"),
        ({"https_proxy": PROXY, "no_proxy": "10.0.0.12"}, "10.0.0.11"),
        ({"grpc_proxy": PROXY, "no_proxy": "10.0.0.8/30"}, "10.0.0.12"),
        ({"all_proxy": PROXY, "no_proxy": "fd00::/8, ,10.0.0.11"}, "10.0.0.12"),
        ({"http_proxy": "", "no_proxy": ""}, None),
        ({}, None),
    ],
)
def test_a_proxy_that_gets_the_traffic_between_nodes(proxies: dict[str, str], left_out: str | None) -> None:
    problems = found_inside(plan(), proxies=proxies)
    assert told(problems) == warned("proxy-env", left_out is not None)
    for problem in problems:
        assert problem.found.endswith(f"no_proxy leaves out {left_out}")
        assert 'env: {no_proxy: "10.0.0.11,10.0.0.12"}' in problem.remedy


@pytest.mark.parametrize(("value", "severity"), [("1", "error"), ("true", "error"), ("0", "warning")])
def test_ray_takes_a_proxy_only_where_it_is_told_to(value: str, severity: str) -> None:
    one = plan({"env.RAY_grpc_enable_http_proxy": value})
    assert told(found_inside(one, proxies={"http_proxy": PROXY})) == [("proxy-env", "gpu-02", severity)]


def test_a_local_node_talks_to_no_other() -> None:
    assert found_inside(LOCAL, node=0, proxies={"http_proxy": PROXY}) == []


# --- strangers in Ray -------------------------------------------------------------------------------


def test_a_node_of_somebody_else_in_our_ray() -> None:
    def nodes(one: Plan, *more: RayNode) -> tuple[RayNode, ...]:
        return (*(RayNode(m.address, m.name, True, 2) for m in one.members), *more)

    stranger = RayNode("10.0.0.13", "gpu-03", True, 2)
    (problem,) = found(plan(), node=0, ray_nodes=nodes(plan(), stranger))
    assert told([problem]) == [("ray-stranger", "gpu-01", "error")]
    assert "gpu-03 (10.0.0.13)" in problem.found
    assert found(plan(), node=1, ray_nodes=nodes(plan(), stranger)) == []
    gone = RayNode("10.0.0.13", "gpu-03", False, 2)
    assert found(plan(), node=0, ray_nodes=nodes(plan(), gone)) == []
    assert found(plan(), node=0, ray_nodes=None) == []


def test_what_is_not_known_is_no_problem() -> None:
    unknown = {"system": None, "inside": None, "disks": (), "default_route": None, "interfaces": {}}
    for node in (0, 1):
        assert found(plan(), node=node, **unknown) == []
