"""Every preflight check fires where it has to, with its remedy, and is silent on healthy nodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from samples import PROCESS, container, fresh, gpu, healthy, plan

from cluster.checks import preflight
from cluster.facts import RayNode, Versions
from cluster.facts.hardware import Hca, Interface
from cluster.plan import Plan

HCA = Hca("mlx5_0")
IMAGE = "registry.local/vllm-ray:v0.33.0"


@pytest.mark.parametrize("changes", [{}, {"serve.executor_backend": "mp"}, {"network.hcas": "none"}], ids=str)
def test_healthy_nodes_have_no_problems(changes: dict[str, Any]) -> None:
    assert preflight(plan(changes), fresh(plan(changes))) == ()
    assert preflight(plan(changes), healthy(plan(changes))) == ()


def test_a_healthy_machine_has_no_problems_with_processes() -> None:
    local = plan(base=PROCESS)
    assert preflight(local, fresh(local, engine_version=None, image_id=None)) == ()


def problems(plan: Plan, node: int = 1, **facts: Any) -> list[tuple[str, str, str]]:
    """What preflight says when one node is not as it should be."""
    found = fresh(plan)
    name = plan.members[node].name
    found[name] = replace(found[name], **facts)
    return [(problem.node, problem.what, problem.remedy) for problem in preflight(plan, found)]


NO_ENGINE = {"engine_version": None, "image_id": None, "versions": None}


@pytest.mark.parametrize(
    ("changes", "facts", "what", "remedy"),
    [
        (
            {},
            {**NO_ENGINE, "engine_error": "sh: 1: docker: not found"},
            "docker is not installed; expected: docker in the PATH",
            "Install docker on gpu-02, or set runtime.engine",
        ),
        (
            {},
            {
                **NO_ENGINE,
                "engine_error": "timeout: failed to run command 'docker': No such file or directory",
            },
            "docker is not installed; expected: docker in the PATH",
            "Install docker on gpu-02, or set runtime.engine",
        ),
        (
            {},
            {
                **NO_ENGINE,
                "engine_error": "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.",
            },
            "docker does not answer: Cannot connect to the Docker daemon at unix:///var/run/docker.sock; "
            "expected: `docker version` to answer",
            "Run `systemctl start docker` on gpu-02",
        ),
        (
            {},
            {
                **NO_ENGINE,
                "engine_error": "permission denied while trying to connect to the Docker daemon socket",
            },
            "docker: permission denied while trying to connect to the Docker daemon socket; "
            "expected: `docker version` to answer",
            "Run `sudo usermod -aG docker $USER` on gpu-02 and log in again",
        ),
        (
            {"runtime.pull": "never"},
            {"image_id": None, "versions": None},
            f"the image {IMAGE} is not there, and runtime.pull is never; expected: the image on every node",
            f"Run `docker pull {IMAGE}` on gpu-02, or `docker load` it",
        ),
        (
            {},
            {"versions": Versions("3.12.3", None, "0.33.0")},
            f"the image {IMAGE} has no ray; expected: ray beside vllm",
            f"Build one with it: printf 'FROM {IMAGE}\\nRUN pip install \"ray[default]\"\\n' "
            "| docker build -t vllm-ray - ; or set serve.executor_backend: mp",
        ),
        (
            {},
            {"versions": Versions("3.12.3", "2.60.0", None)},
            f"the image {IMAGE} has no vllm; expected: vllm",
            "Use an environment with vLLM in it",
        ),
        (
            {},
            {"versions": None, "versions_error": 'exec: "python3": executable file not found in $PATH'},
            f'the image {IMAGE} has no usable python3: exec: "python3": executable file not found in $PATH; '
            "expected: a container that starts and has python3",
            "Use an image with Python, vLLM and Ray",
        ),
        (
            {},
            {"interfaces": {"lo": Interface(("127.0.0.1",)), "eth0": Interface(("10.0.0.99",))}},
            "no interface carries the address 10.0.0.12; expected: one of: lo 127.0.0.1, eth0 10.0.0.99",
            "Put the address that the other nodes reach into the inventory; a name for SSH alone is ssh.host",
        ),
        (
            {"nodes.1.interface": "bond0"},
            {},
            "no interface bond0 with an IPv4 address; expected: one of: lo 127.0.0.1, eth0 10.0.0.12",
            "Correct the interface",
        ),
        (
            {},
            {"gpus": (gpu(0),)},
            "nvidia-smi shows 1 GPUs; expected: 2, as the inventory says",
            "Run `nvidia-smi -L` on gpu-02, or correct nodes[].gpus (runtime.device: cpu needs none)",
        ),
        (
            {"nodes.1.hcas": ["mlx5_0:1", "mlx5_9"]},
            {"hcas": (HCA, replace(HCA, name="mlx5_1"))},
            "no HCA mlx5_9; expected: one of: mlx5_0, mlx5_1",
            "Run `ls /sys/class/infiniband` on gpu-02",
        ),
        (
            {"nodes.1.hcas": ["mlx5_0"]},
            {},
            "no HCA mlx5_0; expected: one of: none",
            "Run `ls /sys/class/infiniband` on gpu-02",
        ),
    ],
    ids=lambda value: value[:50] if isinstance(value, str) else "",
)
def test_one_node_that_cannot_do_the_job(
    changes: dict[str, Any], facts: dict[str, Any], what: str, remedy: str
) -> None:
    assert problems(plan(changes), **facts) == [("gpu-02", what, remedy)]


@pytest.mark.parametrize(("port", "key"), [(6379, "ray.port"), (8000, "serve.port")])
def test_a_port_that_somebody_else_has(port: int, key: str) -> None:
    assert problems(plan(), node=0, listening=frozenset({22, port})) == [
        (
            "gpu-01",
            f"port {port} ({key}) is taken by another program; expected: a free port",
            f"`ss -ltnp 'sport = :{port}'` on gpu-01 says which; stop it, or set {key}",
        )
    ]
    assert problems(plan(), node=1, listening=frozenset({port})) == []


def test_a_port_that_our_own_container_has_is_no_problem() -> None:
    ours = (container(plan(), plan().head, "ray"), container(plan(), plan().head, "serve"))
    assert problems(plan(), node=0, listening=frozenset({6379, 8000}), containers=ours) == []


@pytest.mark.parametrize(("role", "port", "key"), [("ray", 6380, "ray.port"), ("serve", 8001, "serve.port")])
def test_our_own_container_excuses_the_port_that_it_was_started_with_alone(
    role: str, port: int, key: str
) -> None:
    ours = container(plan(), plan().head, role)
    ((_, what, _),) = problems(plan({key: port}), node=0, listening=frozenset({port}), containers=(ours,))
    assert what == f"port {port} ({key}) is taken by another program; expected: a free port"
    without_label = (replace(ours, port=""),)
    assert problems(plan({key: port}), node=0, listening=frozenset({port}), containers=without_label) == []


def test_a_node_in_ray_that_the_inventory_does_not_have() -> None:
    def alive(address: str, name: str, alive: bool = True) -> RayNode:
        return RayNode(address, name, alive, 2)

    ours = (alive("10.0.0.11", "gpu-01"), alive("10.0.0.12", "gpu-02"))
    with_stranger = (*ours, alive("10.0.0.13", "gpu-03"))
    assert problems(plan(), node=0, ray_nodes=with_stranger) == [
        (
            "gpu-01",
            "gpu-03 (10.0.0.13) is in this Ray cluster, but not in the inventory; "
            "expected: the inventory's nodes and no others",
            "Put it back into the inventory; or run `clusterctl down` with it there, and then without it",
        )
    ]
    assert problems(plan(), node=1, ray_nodes=with_stranger) == []
    assert problems(plan(), node=0, ray_nodes=(*ours, alive("10.0.0.13", "gpu-03", alive=False))) == []


@pytest.mark.parametrize(
    ("versions", "what"),
    [
        (Versions("3.12.3", "2.50.0", "0.33.0"), "ray is 2.50.0; expected: 2.60.0, as on the other nodes"),
        (Versions("3.12.4", "2.60.0", "0.33.0"), "python is 3.12.4; expected: 3.12.3, as on the other nodes"),
        (Versions("3.12.3", "2.60.0", "0.32.0"), "vllm is 0.32.0; expected: 0.33.0, as on the other nodes"),
    ],
)
def test_a_version_that_differs(versions: Versions, what: str) -> None:
    remedy = "Use one image everywhere: compare `docker image inspect`"
    assert problems(plan(), versions=versions) == [("gpu-02", what, remedy)]


def test_with_mp_an_image_without_ray_is_fine() -> None:
    assert problems(plan({"serve.executor_backend": "mp"}), versions=Versions("3.12.3", None, "0.33.0")) == []


def test_all_problems_of_all_nodes_come_at_once_in_order_of_node_rank() -> None:
    found = preflight(plan(), fresh(plan(), gpus=()))
    assert [problem.node for problem in found] == ["gpu-01", "gpu-02"]


def test_processes_without_ray() -> None:
    local = plan(base=PROCESS)
    (problem,) = preflight(local, fresh(local, versions=Versions("3.11.7", None, "0.32.0")))
    assert problem.what == "the environment /opt/venv has no ray; expected: ray beside vllm"
    assert problem.remedy == 'Run `pip install "ray[default]"` in it'
