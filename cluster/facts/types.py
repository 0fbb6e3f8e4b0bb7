"""What a node says about itself, understood."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.steps import Result


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


@dataclass(frozen=True)
class RayNode:
    """A node as Ray's own API lists it, dead ones included."""

    address: str
    name: str
    alive: bool
    gpus: float
    reason: str = ""


@dataclass(frozen=True)
class Answer:
    """A completion: the model's text, or why there is none."""

    text: str | None
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Facts:
    """What one node answered."""

    engine_version: str | None = None
    engine_error: str = ""
    containers: tuple[Container, ...] = ()
    image_id: str | None = None
    versions: Versions | None = None
    versions_error: str = ""
    gpus: tuple[str, ...] = ()
    hcas: tuple[str, ...] = ()
    interfaces: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    listening: frozenset[int] = frozenset()
    files: Mapping[str, str] = field(default_factory=dict)
    ray_nodes: tuple[RayNode, ...] | None = None
    ray_error: str = ""
    answer: Answer | None = None
    last_words: str = ""

    def container(self, role: str) -> Container | None:
        """The container of a role, a running one first."""
        found = [container for container in self.containers if container.role == role]
        return next((container for container in found if container.running), found[0] if found else None)


@dataclass(frozen=True)
class Fact:
    """A shell command (stderr joins stdout) and the parser of what it printed."""

    name: str
    command: str
    parse: Callable[[Result], dict[str, Any]]
