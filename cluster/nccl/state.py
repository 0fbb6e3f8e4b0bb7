"""What one process has said so far, and where its threads stand."""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.nccl.events import Cut, Device, Via, Way
from cluster.nccl.model import Process


@dataclass(frozen=True, slots=True)
class Key:
    """What the lines of one kind of connection of a process share; `epoch` is how many communicators it had
    begun, `hint` the one that the thread was making (-1 for none)."""

    hint: int
    epoch: int
    device: int
    way: Way
    connection: int
    via: Via


Ends = tuple[int, int, int, int]
"""src, its GPU's id, dst, its GPU's id: as a line has them, of a communicator that it does not name."""


@dataclass(slots=True)
class Notes:
    """What a thread says while it makes a communicator."""

    rings: dict[int, tuple[int, ...]] = field(default_factory=dict)
    ring_total: int = 0
    parents: dict[int, int] = field(default_factory=dict)
    connected: set[str] = field(default_factory=set)
    per_peer: int | None = None


@dataclass(slots=True)
class Member:
    """One rank of one communicator, as its process tells of it; `unannounced` where only its end is said, as
    by 2.18.1: its channels were connected before. `starts` and `ends` count the lines that say so."""

    index: int
    pointer: str
    group: tuple[str, ...]
    rank: int
    size: int
    device: int
    nvml: int | None
    bus_id: str
    nodes: int | None = None
    complete: bool = False
    unannounced: bool = False
    starts: int = 0
    ends: int = 0
    notes: Notes = field(default_factory=Notes)

    def is_gpu(self, gpu: int) -> bool:
        """Whether a line's `[id]` is this GPU: NVML's index, in 2.18.1 the bus id or (CUMEM) CUDA's index."""
        index = self.device if self.nvml is None else self.nvml
        return gpu in (-1, int(str(max(index, 0)), 16), int(self.bus_id, 16))


@dataclass(slots=True)
class Speech:
    """All that one process said."""

    process: Process
    members: list[Member] = field(default_factory=list)
    channels: dict[Key, dict[Ends, list[int]]] = field(default_factory=dict)
    cuts: dict[Cut, int] = field(default_factory=dict)
    connected: dict[tuple[str, int, Key | None, Ends | None], int] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    devices: dict[str, dict[int, Device]] = field(default_factory=dict)
    rates: dict[tuple[str, int], Device] = field(default_factory=dict)
    networks: set[str] = field(default_factory=set)
    interface: str | None = None
    versions: set[str] = field(default_factory=set)
    clues: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def copies(self) -> int:
        """How often its lines were written: a communicator begins and ends once."""
        return max((1, *(max(member.starts, member.ends) for member in self.members)))

    def member(self, pointer: str) -> Member | None:
        return next((member for member in reversed(self.members) if member.pointer == pointer), None)


@dataclass(slots=True)
class Thread:
    """Where a line's speaker stands: its process, the communicator that it makes, its last channel."""

    speech: Speech
    device: int
    making: Member | None = None
    stray: Notes = field(default_factory=Notes)
    last: tuple[Key, Ends] | None = None

    @property
    def notes(self) -> Notes:
        return self.making.notes if self.making else self.stray
