"""What a node is made of. Sizes are bytes; None: unknown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """The operating system. `resolves_to` are the addresses that the node's own name has on it."""

    os: str = ""
    kernel: str = ""
    boot_id: str = ""
    hostname: str = ""
    resolves_to: tuple[str, ...] = ()
    memory_total: int | None = None
    memory_available: int | None = None
    python: str | None = None
    selinux: str = ""


@dataclass(frozen=True)
class Disk:
    """The file system under a path that matters; `use` says what for."""

    use: str
    path: str
    free: int
    total: int


@dataclass(frozen=True)
class Gpu:
    """One GPU as nvidia-smi shows it; `ecc_errors` are the uncorrected ones since boot."""

    index: int
    uuid: str
    name: str
    memory_total: int
    memory_used: int
    driver: str
    mig: bool = False
    ecc_errors: int | None = None


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds GPU memory; `container` is the id of the container that it runs in."""

    pid: int
    gpu: str
    memory_used: int
    user: str = ""
    command: str = ""
    container: str = ""


@dataclass(frozen=True)
class Gid:
    """An address of an RDMA port; `kind` is the kernel's word: IB/RoCE v1, RoCE v2."""

    index: int
    address: str
    kind: str


@dataclass(frozen=True)
class HcaPort:
    """A port of an HCA; `rate` in Gb/s."""

    number: int
    state: str = ""
    link_layer: str = ""
    rate: float = 0.0
    gids: tuple[Gid, ...] = ()

    @property
    def active(self) -> bool:
        return self.state == "ACTIVE"


@dataclass(frozen=True)
class Hca:
    """An RDMA device; `numa_node` None: unknown."""

    name: str
    ports: tuple[HcaPort, ...] = ()
    numa_node: int | None = None

    @property
    def active(self) -> bool:
        return any(port.active for port in self.ports)

    @property
    def rate(self) -> float:
        """Gb/s of its active ports together."""
        return sum(port.rate for port in self.ports if port.active)


@dataclass(frozen=True)
class Interface:
    """A network interface; `speed` in Mb/s, `networks` those of its addresses: 10.0.0.0/24."""

    addresses: tuple[str, ...] = ()
    mtu: int | None = None
    up: bool = True
    speed: int | None = None
    networks: tuple[str, ...] = ()
