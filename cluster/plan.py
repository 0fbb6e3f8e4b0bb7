"""Who does what: head, workers, node ranks, parallel sizes, and each node's environment. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from cluster.inventory import Inventory, Model, Node, Ray, Runtime, Serve
from cluster.inventory.model import Require
from cluster.inventory.rules import parallel_sizes
from cluster.inventory.spares import everyone, members

Role = Literal["head", "worker"]
Env = tuple[tuple[str, str], ...]

# The address of `address: local`. Ray takes it literally, and opens its ports on it alone, only where this
# says that no other node is to come; else it puts the address of the default route in its place.
LOOPBACK = "127.0.0.1"
LOOPBACK_ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# What an NCCL log has to say for its channels to be read; naming subsystems drops NCCL's own default.
# The file is named where the processes start: only the node knows its folder for what is temporary.
NCCL_DEBUG_ENVIRONMENT = {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,BOOTSTRAP,ENV,NET,GRAPH"}


@dataclass(frozen=True)
class Member:
    """One node's part. `interface` None: the script on the node finds the one that carries `address`."""

    node: Node
    cluster: str
    node_rank: int
    address: str
    interface: str | None
    hcas: tuple[str, ...] | Literal["auto", "none"]
    env: Env
    mounts: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def folder(self) -> str:
        """Its folder, relative to the home folder; of its own, for homes that all nodes share over NFS."""
        return f".clusterctl/{self.cluster}/{self.name}"

    @property
    def role(self) -> Role:
        return "head" if self.node_rank == 0 else "worker"

    @property
    def interface_variables(self) -> Env:
        """(name, prefix) of the variables that name the interface, but for those that the user set.

        NCCL takes a prefix unless "=" stands before it: `eth0` alone would match eth0.100 too.
        """
        names = (("NCCL_SOCKET_IFNAME", "="), ("GLOO_SOCKET_IFNAME", ""), ("TP_SOCKET_IFNAME", ""))
        return tuple((name, prefix) for name, prefix in names if name not in dict(self.env))


@dataclass(frozen=True)
class Plan:
    """The whole deployment, computed before anything is done. `members` are in order of node rank."""

    cluster: str
    members: tuple[Member, ...]
    tensor_parallel_size: int
    pipeline_parallel_size: int
    runtime: Runtime
    ray: Ray
    model: Model
    serve: Serve
    secrets: tuple[str, ...]
    require: Require
    min_bus_bandwidth: float | None
    verify_port: int
    verify_timeout: float

    @property
    def head(self) -> Member:
        return self.members[0]

    def member(self, name: str) -> Member:
        """The member on a node."""
        return next(member for member in self.members if member.name == name)

    @property
    def workers(self) -> tuple[Member, ...]:
        return self.members[1:]

    @property
    def sizes(self) -> str:
        """`tensor parallel size 8 × pipeline parallel size 2`."""
        tensor, pipeline = self.tensor_parallel_size, self.pipeline_parallel_size
        return f"tensor parallel size {tensor} × pipeline parallel size {pipeline}"

    @property
    def world_size(self) -> int:
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def gpus(self) -> int:
        """Of all nodes together."""
        return sum(member.node.gpus for member in self.members)

    @property
    def uses_ray(self) -> bool:
        """False with the executor backend mp: vLLM's own processes then span the nodes."""
        return self.serve.executor_backend == "ray"

    @property
    def servers(self) -> tuple[Member, ...]:
        """The members that run a vLLM process of their own: the head, or all of them with mp."""
        return (self.head,) if self.uses_ray else self.members

    @property
    def ray_address(self) -> str:
        return f"{self.head.address}:{self.ray.port}"

    def keeps_nccl_logs(self, member: Member) -> bool:
        """Whether each process on a node writes NCCL's log into a file here, and not where the user says."""
        return self.serve.nccl_debug and "NCCL_DEBUG_FILE" not in dict(member.env)

    @property
    def served_name(self) -> str:
        return self.model.served_name or self.model.source

    @property
    def url(self) -> str:
        """Where a client finds the OpenAI-compatible API, without the `/v1`."""
        listening_everywhere = self.serve.host in ("0.0.0.0", "::")
        return f"http://{self.head.address if listening_everywhere else self.serve.host}:{self.serve.port}"

    def serve_arg(self, name: str) -> object:
        """A flag of serve.args, however it is spelt there (max_model_len, max-model-len); None: not set."""
        found = (value for key, value in self.serve.args.items() if key.replace("-", "_") == name)
        return next(found, None)

    @property
    def ray_container(self) -> str:
        return f"clusterctl-{self.cluster}-ray"

    @property
    def serve_container(self) -> str:
        return f"clusterctl-{self.cluster}-serve"

    @property
    def main_container(self) -> str:
        """The container that every node has: where `exec` goes."""
        return self.ray_container if self.uses_ray else self.serve_container


def make_plan(inventory: Inventory) -> Plan:
    """The plan of an inventory: the head is node rank 0, the others follow in the inventory's order.

    Spares have no part in it; `inventory.spares.played` puts them in the places of others.
    """
    nodes = members(inventory)
    head = inventory.head or nodes[0].name
    ordered = sorted(nodes, key=lambda node: node.name != head)
    addresses = [LOOPBACK if node.is_local else node.address for node in ordered]
    ray_address = f"{addresses[0]}:{inventory.ray.port}"
    tensor, pipeline = parallel_sizes(inventory)
    return Plan(
        cluster=inventory.cluster,
        members=tuple(
            _member(inventory, node, rank, address, ray_address)
            for rank, (node, address) in enumerate(zip(ordered, addresses, strict=True))
        ),
        tensor_parallel_size=tensor,
        pipeline_parallel_size=pipeline,
        runtime=inventory.runtime,
        ray=inventory.ray,
        model=inventory.model,
        serve=inventory.serve,
        secrets=tuple(inventory.secrets),
        require=inventory.network.require,
        min_bus_bandwidth=inventory.network.min_bus_bandwidth,
        verify_port=inventory.network.verify_port,
        verify_timeout=inventory.network.verify_timeout,
    )


def with_others(inventory: Inventory, plan: Plan) -> Plan:
    """The plan with the inventory's other nodes behind its members, as if they had a part.

    For what concerns each node by itself: whether a spare could do the job, what a quarantined one still has.
    The parallel sizes stay those of the plan.
    """
    names = {member.name for member in plan.members}
    others = tuple(node for node in everyone(inventory).nodes if node.name not in names)
    nodes = (*(member.node for member in plan.members), *others)
    whole = make_plan(inventory.model_copy(update={"nodes": nodes, "head": plan.head.name}))
    return replace(
        whole,
        tensor_parallel_size=plan.tensor_parallel_size,
        pipeline_parallel_size=plan.pipeline_parallel_size,
    )


def but_for(plan: Plan, names: Collection[str]) -> Plan:
    """The plan without the members of these names; the others keep their node ranks."""
    return replace(plan, members=tuple(member for member in plan.members if member.name not in names))


def _member(inventory: Inventory, node: Node, rank: int, address: str, ray_address: str) -> Member:
    hcas = inventory.network.hcas if node.hcas is None else node.hcas
    interface = node.interface or inventory.network.interface
    if node.is_local and interface == "auto":
        interface = "lo"
    return Member(
        node=node,
        cluster=inventory.cluster,
        node_rank=rank,
        address=address,
        interface=None if interface == "auto" else interface,
        hcas=hcas,
        env=_environment(inventory, node, address, ray_address, hcas),
        mounts=(*inventory.runtime.mounts, *node.mounts),
    )


def _environment(
    inventory: Inventory, node: Node, address: str, ray_address: str, hcas: tuple[str, ...] | str
) -> Env:
    """The environment of every process on a node; what the user wrote wins, the node's own most of all."""
    return tuple(
        (
            {
                "VLLM_HOST_IP": address,
                # Without it, vLLM's ray.init() quietly starts a Ray cluster of its own.
                "RAY_ADDRESS": ray_address,
                # Unset, Ray 2.60 turns authentication on where it finds a token, node by node.
                "RAY_AUTH_MODE": "disabled",
                # Ray folds repeated lines of workers away, the evidence of every rank but one with them.
                "RAY_DEDUP_LOGS": "0",
                "RAY_COLOR_PREFIX": "0",
                "RAY_USAGE_STATS_ENABLED": "0",
                # Ray and vLLM would write their processes' titles over the environment that /proc shows:
                # https://github.com/dvarrazzo/py-setproctitle#environment-variables
                "SPT_NOENV": "1",
                # On SIGTERM Ray would wait 30 s for busy workers, which here have lost their server.
                "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            }
            | (LOOPBACK_ENVIRONMENT if node.is_local else {})
            | _hca_environment(hcas)
            | ({"CLUSTERCTL_CPU_PLATFORM": "1"} if inventory.runtime.device == "cpu" else {})
            | (NCCL_DEBUG_ENVIRONMENT if inventory.serve.nccl_debug else {})
            | inventory.env
            | inventory.network.nccl_env
            | node.env
        ).items()
    )


def _hca_environment(hcas: tuple[str, ...] | str) -> dict[str, str]:
    if hcas == "auto":
        return {}
    if hcas == "none":
        return {"NCCL_IB_DISABLE": "1"}
    # Without "=", `mlx5_1` would match mlx5_10 to mlx5_19 too (NCCL user guide, NCCL_IB_HCA).
    return {"NCCL_IB_HCA": "=" + ",".join(hcas)}
