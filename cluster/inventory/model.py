"""What a user may write, key by key. The JSON Schema for editors is made from these classes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from cluster.inventory.scalars import (
    Address,
    Bandwidth,
    ClusterName,
    Count,
    DeviceName,
    EnvName,
    EnvValue,
    FlagName,
    Hcas,
    Image,
    Mount,
    NodeName,
    ParallelSize,
    Port,
    Seconds,
    Size,
    Text,
)

Require = Literal["any", "socket", "ib", "roce", "gdrdma"]
RDMA: tuple[Require, ...] = ("ib", "roce", "gdrdma")  # those that TCP does not meet
HcaChoice = Annotated[Literal["auto", "none"] | tuple[DeviceName, ...], Hcas]
Env = dict[EnvName, EnvValue]


class Section(BaseModel):
    """A mapping that knows its keys: an unknown one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SSH(Section):
    """How to reach a node. What is not said here is taken from ~/.ssh/config and the agent."""

    host: Text | None = Field(None, description="name or address for SSH, where it is not the node's address")
    user: Text | None = None
    port: Port | None = None
    identity_file: Text | None = None
    jump: tuple[Text, ...] = Field((), description="jump hosts in order, each [user@]host[:port]")
    connect_timeout: Seconds = 10.0
    host_key_policy: Literal["strict", "accept-new"] = "strict"
    known_hosts: Text | None = Field(None, description="instead of ~/.ssh/known_hosts")


class Runtime(Section):
    """What carries Ray and vLLM on a node."""

    engine: Literal["docker", "podman", "process"] = "docker"
    device: Literal["cuda", "cpu"] = "cuda"
    image: Image | None = None
    pull: Literal["missing", "always", "never"] = "missing"
    shm_size: Size = Field(
        "16g", description="/dev/shm of the Ray container; vLLM needs about 2.1 GiB for 8 GPUs"
    )
    mounts: tuple[Mount, ...] = ()
    privileged: StrictBool = False
    extra_args: tuple[Text, ...] = Field((), description="further arguments of `docker run`")
    venv: Text | None = Field(None, description="engine process: the virtual environment with ray and vllm")


class Network(Section):
    """Which wires the traffic takes."""

    interface: DeviceName = Field("auto", description="auto: the interface that carries the node's address")
    hcas: HcaChoice = Field("auto", description="auto, none, or names such as [mlx5_0, mlx5_1]")
    nccl_env: Env = Field({}, description="NCCL_* variables for every node")
    require: Require = Field(
        "any", description="what the traffic between nodes has to take; `up` stops before it loads the model"
    )
    min_bus_bandwidth: Bandwidth | None = Field(
        None, description="GB/s of bus bandwidth that the all-reduce over all nodes has to reach at its best"
    )
    verify_port: Port = Field(29511, description="where the head listens while `verify` measures")
    verify_timeout: Seconds = Field(
        120.0, description="seconds that `verify` may take; more where torch loads slowly, or for many nodes"
    )


class Ray(Section):
    """The Ray cluster under vLLM."""

    port: Port = 6379
    dashboard: StrictBool = False
    object_store_memory: Count = Field(
        1_000_000_000, description="bytes; vLLM barely uses Ray's object store"
    )
    join_timeout: Seconds = Field(120.0, description="seconds until every node and GPU has to have joined")


class Model(Section):
    """Which model: a Hugging Face id, or a path as the container sees it."""

    source: Text
    served_name: Text | None = None
    revision: Text | None = None


class Serve(Section):
    """vLLM's OpenAI-compatible server."""

    host: Text = "0.0.0.0"
    port: Port = 8000
    tensor_parallel_size: ParallelSize = None
    pipeline_parallel_size: ParallelSize = None
    executor_backend: Literal["ray", "mp"] = "ray"
    ready_timeout: Seconds = Field(3600.0, description="seconds until the model has to have answered")
    nccl_debug: StrictBool = Field(
        False, description="keep NCCL's log of the served model, a file a process, for `verify --live`"
    )
    args: dict[FlagName, Any] = Field({}, description="any vLLM flag as a YAML key")


class SecretSource(Section):
    """Where a secret is read from on the operator's machine; never the secret itself."""

    env: EnvName | None = None
    file: Text | None = None


class Lock(Section):
    """The lock that `up`, `down`, `heal` and `restart` take on the nodes."""

    expires_after: Seconds = Field(
        30.0, description="seconds without a word from its holder after which another may take it"
    )


class Watch(Section):
    """When a server counts as wedged."""

    interval: Seconds = Field(10.0, description="seconds between two looks")
    wedged_after: Seconds = Field(
        120.0, description="seconds that counters stand still and a completion stays without an answer"
    )


class Heal(Section):
    """How often `watch --heal` restarts, and when it gives a node up."""

    max_restarts: Count = Field(5, description="restarts within `within` seconds; then it only watches")
    within: Seconds = 3600.0
    backoff: Seconds = Field(10.0, description="seconds before the second restart; doubled each time")
    quarantine_after: Count = Field(
        3, description="failures of one node within `within` seconds after which it is not used any more"
    )


class Hooks(Section):
    """Commands that run on the operator's machine, each by `sh -c`."""

    before_up: tuple[Text, ...] = ()
    after_up: tuple[Text, ...] = ()
    before_down: tuple[Text, ...] = ()
    after_down: tuple[Text, ...] = ()
    before_heal: tuple[Text, ...] = ()
    after_heal: tuple[Text, ...] = ()


class Node(Section):
    """One machine with GPUs."""

    name: NodeName = "local"
    address: Address
    gpus: Count = 1
    gpu_model: Text | None = Field(
        None, description="which GPU, e.g. H100-80G or NVIDIA H200: `clusterctl fit` reads it"
    )
    ssh: SSH = SSH()
    env: Env = {}
    interface: DeviceName | None = None
    hcas: HcaChoice | None = None
    mounts: tuple[Mount, ...] = ()
    spare: StrictBool = Field(False, description="stands by, and takes the place of a node that is gone")

    @property
    def is_local(self) -> bool:
        """This machine, without SSH."""
        return self.address == "local"


class Inventory(Section):
    """A whole inventory file."""

    cluster: ClusterName
    nodes: Annotated[tuple[Node, ...], Field(min_length=1)]
    head: NodeName | None = Field(None, description="name of the head node; the first node by default")
    ssh: SSH = SSH()
    runtime: Runtime = Runtime()
    network: Network = Network()
    ray: Ray = Ray()
    model: Model
    serve: Serve = Serve()
    lock: Lock = Lock()
    watch: Watch = Watch()
    heal: Heal = Heal()
    hooks: Hooks = Hooks()
    env: Env = {}
    secrets: dict[EnvName, SecretSource] = {}
