"""What on_node/environments.py answered, understood. Pure."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter

from cluster.proof.answer import understood
from cluster.steps import Outcome

Kind = Literal["ray", "server", "engine", "rank"]
# More than the program on the node ever packs: what does not end there is not its.
MOST_LOG_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Process:
    """A process of Ray or vLLM; `what` is its title. `environment` None: it has overwritten its own."""

    pid: int
    kind: Kind
    what: str
    environment: Mapping[str, str] | None

    def __str__(self) -> str:
        return f"{self.what} (pid {self.pid})"


@dataclass(frozen=True)
class Log:
    """The head of what NCCL wrote in one process: base64 of gzip. `cut`: more was written than this."""

    pid: int
    size: int
    cut: bool
    gzip: str

    @property
    def content(self) -> bytes:
        """Empty where it cannot be unpacked."""
        try:
            return zlib.decompressobj(wbits=31).decompress(base64.b64decode(self.gzip), MOST_LOG_BYTES)
        except (ValueError, zlib.error):
            return b""


@dataclass(frozen=True)
class Attestation:
    """One node's answer. `names` are the variables that it would tell of beside those of NCCL, Gloo,
    TensorPipe and UCX; `network_env` is the file of that name, None where there is none.
    """

    host: str
    names: tuple[str, ...]
    network_env: Mapping[str, str] | None
    processes: tuple[Process, ...]
    logs: tuple[Log, ...] = ()

    def of(self, *kinds: Kind) -> tuple[Process, ...]:
        return tuple(process for process in self.processes if process.kind in kinds)


READER = TypeAdapter(Attestation)


def parse(outcome: Outcome) -> Attestation | str:
    """What a node answered, or why there is no answer. Never raises."""
    return understood(outcome, READER, "environments.py")
