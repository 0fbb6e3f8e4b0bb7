"""What stands around a failure in a log: a genuine vLLM 0.26 log of four ranks on two nodes.

The genuine log is vllm-0.26-two-nodes.log.gz beside this (H200s; both "nodes" were one machine). Here its
ranks 0 and 1 get the name and address of gpu-01, ranks 2 and 3 those of gpu-02; nothing else is changed but
that NCCL's rings, trees and topology are left out.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

RAY = Path(__file__).parent / "healthy-ray"  # its head's and its worker's container
GENUINE = Path(__file__).parent / "vllm-0.26-two-nodes.log.gz"
ENGINE = "(EngineCore pid=6618) "
ADDRESSES = {"gpu-01": "10.0.0.11", "gpu-02": "10.0.0.12"}
COLOUR, PLAIN = "\x1b[36m", "\x1b[0m"
DULL = re.compile(
    r" (Ring|Tree|Channel) \d|Trees \[|proxy (recv|send) connection|Connected to proxy|Pattern "
    r"|Topology detection|NCCL INFO +(\+ |=|\d+ :|CPU/|GPU/)|NCCL_HOSTID|dlvsym|Could not"
)
INFINIBAND = (
    (
        "NET/IB : No device found.",
        "NET/IB : Using [0]mlx5_0:1/{link} [1]mlx5_1:1/{link} [RO]; OOB eth0:10.0.0.0<0>",
    ),
    ("Assigned NET plugin Socket to comm", "Assigned NET plugin IB to comm"),
    ("Using network Socket", "Using network IB"),
)
NOT_WITH_INFINIBAND = re.compile(
    r"NET/IB : Using \[RO\]|Failed to initialize NET plugin IB|NET/Socket|NET plugin Socket"
)
CLOCK = re.compile(r"(?:11-21|1121|2026-11-21) (\d\d):(\d\d):(\d\d)(?:[.,](\d{3}))?")
START = datetime(2026, 11, 21, 6, 15, 17)

Lines = tuple[str, ...]


@dataclass(frozen=True)
class Rank:
    """A rank, the process that is it, and where that runs."""

    number: int
    pid: int
    node: str

    @property
    def device(self) -> int:
        return self.number % 2

    @property
    def address(self) -> str:
        return ADDRESSES[self.node]

    @property
    def prefix(self) -> str:
        """As the driver prints it: Ray names the address only of another node than its own."""
        where = "" if self.node == "gpu-01" else f", ip={self.address}"
        return f"{ENGINE}{COLOUR}(RayWorkerProc pid={self.pid}{where}){PLAIN} "

    @property
    def worker(self) -> str:
        return f"(Worker_PP{self.number // 2}_TP{self.device} pid={self.pid}) "


RANKS = (Rank(0, 7747, "gpu-01"), Rank(1, 7748, "gpu-01"), Rank(2, 7750, "gpu-02"), Rank(3, 7751, "gpu-02"))


@cache
def genuine() -> Lines:
    """The log as the driver on gpu-01 would have printed it, had the nodes been two."""
    text = gzip.decompress(GENUINE.read_bytes()).decode()
    return tuple(
        line for raw in text.splitlines() if (line := _as_of_two_nodes(raw)) and not DULL.search(line)
    )


def _as_of_two_nodes(line: str) -> str:
    """Each line of a rank is there twice, because the driver listened on both "nodes": one of them stays."""
    rank = next((rank for rank in RANKS if f"(RayWorkerProc pid={rank.pid}" in line), None)
    if rank is None:
        return line.replace("192.0.2.2", ADDRESSES["gpu-01"])
    if ("ip=127.0.0.2" in line) != (rank.node == "gpu-02"):
        return ""
    line = line.replace("tcp://192.0.2.2", f"tcp://{ADDRESSES['gpu-01']}")
    line = line.replace("ip=127.0.0.2", f"ip={rank.address}").replace("192.0.2.2", rank.address)
    return re.sub(r"\bvm:(\d+):", rf"{rank.node}:\1:", line)


def until(mark: str) -> Lines:
    """The genuine log to the last line before its mark."""
    lines = genuine()
    return lines[: next(index for index, line in enumerate(lines) if MARKS[mark] in line)]


def with_infiniband(lines: Lines, link: str = "IB") -> Lines:
    """NCCL's lines as on nodes with two HCAs (src/transport/net_ib.cc)."""
    kept = []
    for line in lines:
        for old, new in INFINIBAND:
            line = line.replace(old, new.format(link=link))
        if not NOT_WITH_INFINIBAND.search(line):
            kept.append(line)
    return tuple(kept)


MARKS = {
    "before-engine": "Initializing a V1 LLM engine",
    "before-ranks": "No current placement group found",
    "before-rendezvous": "vLLM is using nccl",
    "before-nccl": "NCCL INFO Bootstrap: Using",
    "before-network": "NCCL INFO Assigned NET plugin",
    "before-loading": "Loading model from scratch",
    "loaded": "Model loading took",
    "before-warm-up": "Skipping CuTeDSL warmup",
    "serving": "Running: 16 reqs",
}


def stamped(lines: Iterable[str], start: datetime = START) -> str:
    """As `docker logs --timestamps` has them: the engine's clock, a moment after the program's own."""
    now, text = start, []
    for line in lines:
        if found := CLOCK.search(line):
            hour, minute, second, thousandth = (int(part or 0) for part in found.groups())
            now = max(
                now, now.replace(hour=hour, minute=minute, second=second, microsecond=thousandth * 1000)
            )
        now += timedelta(microseconds=7)
        text.append(f"{now:%Y-%m-%dT%H:%M:%S.%f}311Z {line}\n")
    return "".join(text)


def ray_log(role: str) -> Lines:
    """The log of Ray's container on gpu-01 (head) or gpu-02 (worker): the lab's, of a moment before."""
    number = "01" if role == "head" else "02"
    text = next(RAY.glob(f"*-{number}.ray.log")).read_text()
    lines = [re.sub(r"^\S+Z ", "", line) for line in text.splitlines()]
    lines = [re.sub(r"10\.231\.\d+\.(1[12])", r"10.0.0.\1", line) for line in lines]
    return tuple(re.sub(r" \d\d:\d\d:(\d\d),", r" 06:14:\1,", line) for line in lines)
