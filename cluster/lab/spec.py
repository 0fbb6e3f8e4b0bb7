"""What a lab is: names, addresses and places, all computed from a few values. Nothing here has an effect."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network
from pathlib import Path

from cluster.errors import LabError

BASE = Path("/var/tmp/clusterctl-lab")
SUPERNET = IPv4Network("10.231.0.0/16")
FIRST_HOST = 11  # node 1 is 10.231.X.11: the last number says which node it is
MAX_NODES = 99
NAME = re.compile(r"[a-z][a-z0-9-]{0,8}[a-z0-9]")  # "clab-" + 10 letters: a link's name has at most 15
IMAGE = "clusterctl-lab:1"


@dataclass(frozen=True)
class LabSpec:
    """What the user asks for."""

    name: str = "lab"
    nodes: int = 2
    gpus: int = 1
    engine: bool = True
    python: Path | None = None  # a Python environment; None is the one that runs clusterctl
    model: Path | None = None  # None is the prepared one, if there is one
    mounts: tuple[str, ...] = ()  # SOURCE:TARGET, seen by every host and by its containers, read-only


@dataclass(frozen=True)
class Host:
    """One host: a root file system of its own and the namespaces around it."""

    name: str
    address: str
    gateway: str
    root: Path
    engine: bool

    @property
    def boot_log(self) -> Path:
        return self.root.parent / "boot.log"

    @property
    def boot_script(self) -> Path:
        return self.root.parent / "boot"

    @property
    def engine_log(self) -> Path:
        return self.root / "var/log/dockerd.log"

    @property
    def sshd_log(self) -> Path:
        return self.root / "var/log/sshd.log"


@dataclass(frozen=True)
class Lab:
    """A lab as state.json keeps it: whatever was made can be found, and removed, from these values."""

    name: str
    nodes: int
    gpus: int
    engine: bool
    subnet: str
    directory: Path
    venv: str = ""
    shares: tuple[str, ...] = ()  # of this machine, seen read-only by every host at the same path
    mounts: tuple[str, ...] = ()  # runtime.mounts of the inventory
    image_path: str = ""  # PATH inside the containers

    @property
    def hosts(self) -> tuple[Host, ...]:
        return tuple(self._host(number) for number in range(1, self.nodes + 1))

    def _host(self, number: int) -> Host:
        name = f"{self.name}-{number:02}"
        address = str(self.network[FIRST_HOST + number - 1])
        return Host(
            name, address, self.operator_address, self.directory / "hosts" / name / "root", self.engine
        )

    @property
    def network(self) -> IPv4Network:
        return IPv4Network(self.subnet)

    @property
    def operator_address(self) -> str:
        return str(self.network[1])

    @property
    def link(self) -> str:
        """The operator's end of the cable to the lab's switch."""
        return f"clab-{self.name}"

    @property
    def switch(self) -> str:
        """The namespace that holds the bridge."""
        return f"{self.name}-sw"

    @property
    def namespaces(self) -> tuple[str, ...]:
        return (self.switch, *(host.name for host in self.hosts))

    @property
    def cgroup(self) -> str:
        return f"clab-{self.name}"

    @property
    def client_key(self) -> Path:
        return self.directory / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    @property
    def state_file(self) -> Path:
        return self.directory / "state.json"

    def same_shape(self, other: Lab) -> bool:
        mine, theirs = asdict(self), asdict(other)
        return {**mine, "subnet": ""} == {**theirs, "subnet": ""}


def lab_directory(name: str, base: Path = BASE) -> Path:
    """The name is checked here, because it becomes a path that `lab down` removes."""
    if not NAME.fullmatch(name):
        raise LabError(
            f"lab name {name!r} cannot be used", "2 to 10 lower-case letters, digits and '-', a letter first"
        )
    return base / name


def check_spec(spec: LabSpec) -> None:
    lab_directory(spec.name)
    if not 1 <= spec.nodes <= MAX_NODES:
        raise LabError(f"a lab has 1 to {MAX_NODES} nodes, not {spec.nodes}")
    if spec.gpus < 1:
        raise LabError(f"a node has at least 1 GPU, not {spec.gpus}")


def free_subnet(used: Iterable[IPv4Network]) -> IPv4Network:
    """The first /24 that no route leads into; a wider one (a VPN's 10.0.0.0/8) is no obstacle."""
    taken = [network for network in used if network.prefixlen >= SUPERNET.prefixlen]
    for subnet in SUPERNET.subnets(new_prefix=24):
        if not any(subnet.overlaps(network) for network in taken):
            return subnet
    raise LabError(f"no free /24 in {SUPERNET}", "`ip route` shows what takes them; take old labs down")


def to_json(lab: Lab) -> str:
    return json.dumps(asdict(lab), indent=2, default=str) + "\n"


def from_json(text: str, directory: Path) -> Lab:
    """Where the file lies wins over what it says, so that a moved or forged path is never removed."""
    values = json.loads(text)
    tuples = {key: tuple(values[key]) for key in ("shares", "mounts")}
    return Lab(**{**values, **tuples, "directory": directory})
