"""What a node says about itself, understood. Sizes are bytes; None: unknown, but in limits: unlimited."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.facts.hardware import Disk, Gpu, GpuProcess, Hca, Interface, System
from cluster.facts.model_files import ModelFiles
from cluster.steps import Result

LONGEST = 30  # seconds that one fact may take


@dataclass(frozen=True)
class Container:
    """A container of this cluster, or a process of it where the engine is `process`."""

    id: str
    name: str
    role: str
    node: str
    digest: str
    running: bool
    image: str = ""
    port: str = ""
    exit_code: int = 0
    oom_killed: bool = False
    started_at: str = ""
    generation: str = ""

    @property
    def state(self) -> str:
        """`running`, `exited with code 1`, `killed: out of memory`."""
        if self.running:
            return "running"
        return "killed: out of memory" if self.oom_killed else f"exited with code {self.exit_code}"


@dataclass(frozen=True)
class Versions:
    """What a node's Python has installed; None: not there."""

    python: str | None = None
    ray: str | None = None
    vllm: str | None = None
    nccl: str | None = None


@dataclass(frozen=True)
class Inside:
    """What vLLM finds where it runs: in a container as Ray's, or in the virtual environment.

    `memlock` and `nofile` are the soft limits, None: none. `cuda` is (cuInit's code, GPUs that CUDA sees),
    None where there is no libcuda, and `cuda_version` what the driver there supports, as 12080 for 12.8.
    `resolves_to` are the addresses of the node's own name.
    """

    memlock: int | None = None
    nofile: int | None = None
    shm_bytes: int | None = None
    proxies: Mapping[str, str] = field(default_factory=dict)
    infiniband: tuple[str, ...] = ()
    resolves_to: tuple[str, ...] = ()
    cuda: tuple[int, int] | None = None
    cuda_version: int | None = None
    model: ModelFiles | None = None


@dataclass(frozen=True)
class EngineSetup:
    """How the container engine is set up on a node."""

    storage_driver: str = ""
    root: str = ""
    runtimes: tuple[str, ...] = ()
    security: tuple[str, ...] = ()


@dataclass(frozen=True)
class RayNode:
    """A node as Ray's own API lists it, dead ones included; `id` is another after each start."""

    address: str
    name: str
    alive: bool
    gpus: float
    reason: str = ""
    id: str = ""


@dataclass(frozen=True)
class Answer:
    """A completion: the model's text, or why there is none."""

    text: str | None
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Scrape:
    """What a server's /health and /metrics said: an HTTP status and vLLM's own lines.

    None: no answer, and `reason` says why. `tried`: False where it was not even asked, as nothing could be
    run beside it.
    """

    health: int | None = None
    metrics: str | None = None
    reason: str = ""
    tried: bool = True


@dataclass(frozen=True)
class KvCache:
    """What vLLM says of its KV cache, once it is up: tokens, and requests of `max_model_len` at once."""

    tokens: int
    max_concurrency: float
    max_model_len: int


@dataclass(frozen=True)
class Facts:
    """What one node answered."""

    engine_version: str | None = None
    engine_error: str = ""
    engine_setup: EngineSetup | None = None
    containers: tuple[Container, ...] = ()
    # Containers that bear a name of ours and not our label.
    name_conflicts: tuple[str, ...] = ()
    image_id: str | None = None
    # Its layers and configuration: two images of one content have different ids where they were made apart.
    image_content: str | None = None
    # What an image says of itself: CUDA_VERSION, NVIDIA_REQUIRE_CUDA, ...
    image_env: Mapping[str, str] = field(default_factory=dict)
    versions: Versions | None = None
    versions_error: str = ""
    # How the container ended that was to say it: 125 is the engine's own refusal.
    inside_code: int = 0
    # Sources of mounts that are not on the node.
    missing_mounts: tuple[str, ...] = ()
    inside: Inside | None = None
    system: System | None = None
    # The node's own clock before and after all other facts, in seconds since 1970.
    clock_began: float | None = None
    clock_ended: float | None = None
    # Seconds that the node's clock is ahead of the operator's, and how far off that may be.
    clock_offset: float | None = None
    clock_uncertainty: float = 0.0
    gpus: tuple[Gpu, ...] = ()
    gpu_error: str = ""
    gpu_processes: tuple[GpuProcess, ...] = ()
    # The CUDA version that the driver supports at most.
    cuda_version: str | None = None
    xids: tuple[str, ...] = ()
    fabric_states: tuple[str, ...] = ()
    fabric_manager: str | None = None
    amd_gpus: int = 0
    amd_driver: str | None = None
    hcas: tuple[Hca, ...] = ()
    # How NCCL would get at GPU memory from an HCA: peermem, dma-buf; empty: it cannot.
    gpudirect: tuple[str, ...] = ()
    # {GPU: {HCA: NCCL's word for how far they are apart}}, e.g. {"GPU0": {"mlx5_0": "PIX"}}.
    distances: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    # PCIe bridges with ACS on, which sends GPU-to-HCA traffic through the CPU.
    acs_bridges: int = 0
    interfaces: Mapping[str, Interface] = field(default_factory=dict)
    default_route: str | None = None
    listening: frozenset[int] = frozenset()
    disks: tuple[Disk, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    ray_nodes: tuple[RayNode, ...] | None = None
    ray_error: str = ""
    answer: Answer | None = None
    scrape: Scrape | None = None
    # The number of the generation that ought to run here, as text; empty: none ought to.
    wanted: str = ""
    kv_cache: KvCache | None = None
    last_words: str = ""

    @property
    def model(self) -> ModelFiles | None:
        """The model's folder as vLLM finds it; None: not looked at."""
        return self.inside.model if self.inside is not None else None

    def container(self, role: str) -> Container | None:
        """The container of a role, a running one first."""
        found = [container for container in self.containers if container.role == role]
        return next((container for container in found if container.running), found[0] if found else None)

    def runs(self, role: str) -> bool:
        """Whether a container of a role is running."""
        return any(container.running for container in self.containers if container.role == role)


@dataclass(frozen=True)
class Fact:
    """A shell command (stderr joins stdout) and the parser of what it printed.

    `variable` is where later commands find what it printed; one that `needs` it is not run where it is empty.
    `quick` commands hang only where the login itself would.
    """

    name: str
    command: str
    parse: Callable[[Result], dict[str, Any]]
    variable: str = ""
    needs: str = ""
    quick: bool = False
