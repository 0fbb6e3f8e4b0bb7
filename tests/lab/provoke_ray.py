"""Ray that does not come together, or falls apart."""

from __future__ import annotations

from cluster.lab import host
from cluster.lab.spec import Host
from tests.lab.cases import case
from tests.lab.stage import Stage

GCS = 6379
HIGH_PORTS = "-p tcp --dport 10000:65535"


def head_up(stage: Stage) -> None:
    """The scripts on both nodes, and Ray on the head."""
    stage.write_scripts()
    stage.start(stage.head, "ray")
    stage.until(stage.head, "ray", "Ray runtime started", 60)


def worker_fails(stage: Stage, timeout: float = 120) -> None:
    stage.start(stage.worker, "ray")
    stage.ended(stage.worker, "ray", timeout)


def give_python(stage: Stage, node: Host, text: str) -> None:
    """Run this in every Python process of the node's containers."""
    stage.add_file(node, "/root/cluster/plugins/sitecustomize.py", text)


@case("the worker is told 127.0.0.1 as the head's address", "ray-head-not-up", node=2)
def ray_wrong_head_address(stage: Stage) -> None:
    head_up(stage)
    stage.edit(stage.worker, "ray.sh", f"{stage.head.address}:{GCS}", f"127.0.0.1:{GCS}")
    worker_fails(stage)


@case("only the worker is started, its head never", "ray-head-not-up", node=2)
def ray_head_never_started(stage: Stage) -> None:
    stage.write_scripts()
    worker_fails(stage)


@case(
    "the head's packet filter rejects port 6379 (icmp-host-prohibited)",
    "ray-head-not-up",
    node=2,
    acceptable=("firewall-ports",),
)
def ray_head_port_blocked(stage: Stage) -> None:
    head_up(stage)
    rule = f"-p tcp --dport {GCS} -i eth0 -j REJECT --reject-with icmp-host-prohibited"
    stage.sh(stage.head, f"iptables -A INPUT {rule}")
    worker_fails(stage)


@case("Ray 2.49.2 on the worker, by its own account", "ray-version-mismatch", 2, ("image-drift",))
def ray_version_differs(stage: Stage) -> None:
    head_up(stage)
    give_python(stage, stage.worker, "import ray\n\nray.__version__ = '2.49.2'\n")
    worker_fails(stage)


@case("Python 3.12.11 on the worker, by its own account", "image-drift", 2, ("ray-version-mismatch",))
def ray_python_differs(stage: Stage) -> None:
    head_up(stage)
    give_python(
        stage,
        stage.worker,
        "import ray\nimport ray._private.utils as utils\n\n"
        "utils.compute_version_info = lambda: (ray.__version__, '3.12.11')\n",
    )
    worker_fails(stage)


@case("another program listens on the head's port 6379", "ray-port-in-use", node=1)
def ray_port_taken(stage: Stage) -> None:
    stage.write_scripts()
    stage.background(stage.head, f"/usr/bin/python3 -m http.server {GCS}")
    stage.sh(stage.head, f"timeout 10 sh -c 'until ss -ltnH sport = :{GCS} | grep -q .; do :; done'")
    stage.start(stage.head, "ray")
    stage.ended(stage.head, "ray", 60)


@case(
    "a Ray head of yesterday, in a container of another name, still runs on the head",
    "stale-containers",
    node=1,
    acceptable=("ray-port-in-use",),
)
def ray_stale_container(stage: Stage) -> None:
    head_up(stage)
    host.run(stage.head, "docker", "rename", stage.container("ray"), "node-24817")
    stage.start(stage.head, "ray")
    stage.ended(stage.head, "ray", 60)


@case(
    "the worker's packet filter rejects all ports from 10000 on (icmp-host-prohibited), as firewalld does",
    "firewall-ports",
    node=2,
    acceptable=("ray-node-dead",),
)
def ray_firewall_rejects(stage: Stage) -> None:
    head_up(stage)
    rule = f"{HIGH_PORTS} -i eth0 -j REJECT --reject-with icmp-host-prohibited"
    stage.sh(
        stage.worker,
        f"iptables -A INPUT -i eth0 -m state --state ESTABLISHED -j ACCEPT && iptables -A INPUT {rule}",
    )
    worker_fails(stage, timeout=60)
    stage.keep_session_logs(stage.head, "gcs_server.out")
    stage.keep_session_logs(stage.worker, "raylet.out")


@case(
    "packets to the worker's ports from 10000 on vanish: the GCS cannot reach the raylet",
    "firewall-ports",
    node=2,
    acceptable=("ray-node-dead",),
)
def ray_firewall_drops(stage: Stage) -> None:
    head_up(stage)
    stage.sh(
        stage.worker,
        "iptables -A INPUT -i eth0 -m state --state ESTABLISHED -j ACCEPT && "
        f"iptables -A INPUT {HIGH_PORTS} -i eth0 -j DROP",
    )
    worker_fails(stage, timeout=90)
    stage.keep_session_logs(stage.head, "gcs_server.out")
    stage.keep_session_logs(stage.worker, "raylet.out")


@case(
    "http_proxy of a proxy that refuses, no no_proxy, in the worker's container, and Ray is told to use it",
    "proxy-env",
    node=2,
    acceptable=("ray-head-not-up",),
)
def ray_proxy(stage: Stage) -> None:
    head_up(stage)
    set_proxy(stage)
    stage.add_to_env(stage.worker, "RAY_grpc_enable_http_proxy=1")
    worker_fails(stage)


@case("http_proxy of a proxy that refuses: Ray does not use it unless it is told to, all is well", None)
def healthy_proxy(stage: Stage) -> None:
    head_up(stage)
    set_proxy(stage)
    stage.start(stage.worker, "ray")
    assert stage.joined(2), "Ray did not join"


def set_proxy(stage: Stage) -> None:
    proxy = f"http://{stage.lab.operator_address}:3128"
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        stage.add_to_env(stage.worker, f"{name}={proxy}")
    stage.add_to_env(stage.worker, "GRPC_VERBOSITY=INFO")


@case("the worker joins with --num-gpus 0", "ray-zero-gpus", 2, ("ray-missing-nodes",))
def ray_worker_without_gpus(stage: Stage) -> None:
    head_up(stage)
    stage.edit(stage.worker, "ray.sh", "--num-gpus 1", "--num-gpus 0")
    stage.start(stage.worker, "ray")
    assert stage.joined(2), "Ray did not join"
    stage.serve_as_written(
        ready="Waiting for creating a placement group of specs for 40 seconds", timeout=150
    )


@case("the head's Ray is started anew while the worker still belongs to the old one", "ray-stale-session", 2)
def ray_head_restarted(stage: Stage) -> None:
    stage.ray_cluster()
    stage.keep_container_logs_of(stage.head, "ray")
    host.run(stage.head, "docker", "rm", "--force", "--volumes", stage.container("ray"))
    stage.start(stage.head, "ray")
    stage.until(stage.head, "ray", "Ray runtime started", 60)
    stage.ended(stage.worker, "ray", 100)
    stage.keep_session_logs(stage.worker, "raylet.out")


@case("Ray alone on both nodes, joined, nothing wrong", None)
def healthy_ray(stage: Stage) -> None:
    stage.ray_cluster()
    stage.keep_session_logs(stage.head, "gcs_server.out")
    stage.keep_session_logs(stage.worker, "raylet.out")


@case(
    "the worker's raylet is killed (SIGKILL) on an idle cluster", "ray-node-dead", 2, ("other:raylet killed",)
)
def ray_raylet_killed(stage: Stage) -> None:
    stage.ray_cluster()
    stage.kill(stage.worker, "raylet/raylet")
    stage.ended(stage.worker, "ray", 60)
    stage.keep_session_logs(stage.head, "gcs_server.out")
