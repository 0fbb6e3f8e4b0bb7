"""Ranks that cannot find each other, ranks that die while serving, and runs in which nothing is wrong."""

from __future__ import annotations

import time

from cluster.lab import host
from cluster.lab.spec import Host
from tests.lab.cases import case
from tests.lab.stage import Stage

RANK = "ray::"  # how Ray names the process of a rank


def both(stage: Stage) -> None:
    """Ray on both nodes, from the scripts as they are."""
    stage.start(stage.head, "ray")
    stage.until(stage.head, "ray", "Ray runtime started", 60)
    stage.start(stage.worker, "ray")
    assert stage.joined(2), "Ray did not join"


@case(
    "GLOO_SOCKET_IFNAME of the worker names an interface that is not there",
    "other:GLOO_SOCKET_IFNAME names no interface",
    node=2,
    acceptable=("gloo-loopback", "nccl-no-iface"),
)
def gloo_no_such_interface(stage: Stage) -> None:
    stage.write_scripts()
    stage.edit(stage.worker, "run_cluster.sh", "GLOO_SOCKET_IFNAME=$interface", "GLOO_SOCKET_IFNAME=ens3")
    both(stage)
    stage.serve_as_written()


@case(
    "the head's name leads to 127.0.1.1, GLOO_SOCKET_IFNAME is not set: vLLM 0.32 serves all the same", None
)
def healthy_gloo_loopback_head(stage: Stage) -> None:
    without_gloo_interface(stage, stage.head)


@case(
    "the worker's name leads to 127.0.1.1, GLOO_SOCKET_IFNAME is not set: vLLM 0.32 serves all the same", None
)
def healthy_gloo_loopback_worker(stage: Stage) -> None:
    without_gloo_interface(stage, stage.worker)


def without_gloo_interface(stage: Stage, loopback: Host) -> None:
    """In /etc/hosts of one node its own name is 127.0.1.1, as Debian's installer leaves it."""
    stage.write_scripts()
    for node in stage.lab.hosts:
        stage.edit(node, "run_cluster.sh", '  set -- "$@" --env "GLOO_SOCKET_IFNAME=$interface"\n', "")
    hosts = loopback.root / "etc/hosts"
    usual = hosts.read_text()
    hosts.write_text(usual.replace(f"{loopback.address} {loopback.name}", f"127.0.1.1 {loopback.name}"))
    try:
        both(stage)
        assert stage.serve_as_written(), "vLLM did not come up"
    finally:
        hosts.write_text(usual)


@case(
    "the head has no default route, VLLM_HOST_IP is not set: vLLM 0.32 warns and serves",
    "no-default-route",
    1,
)
def vllm_no_default_route(stage: Stage) -> None:
    stage.write_scripts()
    for node in stage.lab.hosts:
        stage.edit(node, "env", f"VLLM_HOST_IP={node.address}\n", "")
    both(stage)
    stage.sh(stage.head, "ip route del default")
    assert stage.serve_as_written(), "vLLM did not come up"


def serving(stage: Stage) -> None:
    """A model that has answered."""
    assert stage.serve(), "vLLM did not come up"
    assert "Paris" in stage.ask() or stage.runs(stage.head, "serve")


@case("a two-node cluster from its start to its answer", None, ray=True)
def healthy_up(stage: Stage) -> None:
    serving(stage)


@case("VLLM_HOST_IP of the server is an address that Ray has no node of: vLLM 0.32 serves all the same", None)
def healthy_host_ip_wrong(stage: Stage) -> None:
    stage.ray_cluster()
    wrong = str(stage.lab.network[77])
    stage.edit(stage.head, "env", f"VLLM_HOST_IP={stage.head.address}", f"VLLM_HOST_IP={wrong}")
    assert stage.serve_as_written(), "vLLM did not come up"


@case("VLLM_HOST_IP of the worker is the head's: vLLM 0.32 serves all the same", None)
def healthy_host_ip_twice(stage: Stage) -> None:
    stage.write_scripts()
    own, other = stage.worker.address, stage.head.address
    stage.edit(stage.worker, "env", f"VLLM_HOST_IP={own}", f"VLLM_HOST_IP={other}")
    both(stage)
    assert stage.serve_as_written(), "vLLM did not come up"


@case("started, asked, idle for a minute", None, ray=True)
def healthy_idle(stage: Stage) -> None:
    serving(stage)
    time.sleep(65)
    stage.ask()


@case("started, asked, and taken down in order", None)
def healthy_down(stage: Stage) -> None:
    stage.ray_cluster()
    serving(stage)
    stage.stop("serve", stage.head)
    stage.stop("ray", stage.worker, stage.head)
    stage.keep_session_logs(stage.worker, "raylet.out")


@case("the rank on the worker is killed (SIGKILL) while the model serves", "engine-dead", 2, ray=True)
def killed_rank(stage: Stage) -> None:
    serving(stage)
    stage.kill(stage.worker, f"{RANK}.*orker")
    stage.ask()
    stage.ended(stage.head, "serve", 30)


@case(
    "the Ray container of the worker is killed while the model serves",
    "ray-node-dead",
    node=2,
    ray=True,
    keeps_ray=False,
)
def killed_container(stage: Stage) -> None:
    serving(stage)
    host.run(stage.worker, "docker", "kill", stage.container("ray"))
    stage.ended(stage.head, "serve", 90)
    stage.keep_session_logs(stage.head, "gcs_server.out")


@case(
    "the worker's raylet is killed (SIGKILL) while the model serves",
    "ray-node-dead",
    node=2,
    ray=True,
    keeps_ray=False,
)
def killed_raylet(stage: Stage) -> None:
    serving(stage)
    stage.kill(stage.worker, "raylet/raylet")
    stage.ended(stage.head, "serve", 90)
    stage.keep_session_logs(stage.worker, "raylet.err")


@case(
    "the worker's cable is pulled while the model serves",
    "ray-node-dead",
    node=2,
    ray=True,
    keeps_ray=False,
)
def killed_link(stage: Stage) -> None:
    serving(stage)
    host.link_down(stage.worker)
    stage.ended(stage.head, "serve", 120)
    stage.keep_session_logs(stage.head, "gcs_server.out")


@case("vLLM's engine process is killed (SIGKILL) while the model serves", "engine-dead", 1, ray=True)
def killed_engine(stage: Stage) -> None:
    serving(stage)
    stage.kill(stage.head, "VLLM::EngineCor")
    stage.ended(stage.head, "serve", 10)
    stage.ask()
    stage.ended(stage.head, "serve", 30)
