"""How long `clusterctl nccl` takes over the log of a large run, and how much memory.

    .venv/bin/python bench/nccl.py [MEGABYTES]

The log is Ray's driver log of 64 nodes with 8 GPUs each: all lines that NCCL 2.28.9 writes at the start, of
the world, the tensor parallel groups and the pipeline's, interleaved, behind vLLM's and Ray's prefixes; and
among and after them what makes such logs large: NCCL's line for every collective (NCCL_DEBUG_SUBSYS=ALL),
proxy connections, vLLM's own lines. Hardly two of these are the same. It is read plain and gzipped, by a
process of its own each time, and removed.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.nccllog import Run
from tests.ncclnoise import Way, pieces, text_of

ROOT = Path(__file__).parent.parent
RUN = Run(nodes=64, gpus=8, channels=16, groups=("world", "tensor", "pipeline", "messages"))
MEGABYTE = 1_000_000
AT_ONCE = 2000


def main(megabytes: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="clusterctl-bench-"))
    try:
        plain, packed = folder / "ray.log", folder / "ray.log.gz"
        write(plain, megabytes * MEGABYTE)
        with open(plain, "rb") as source, gzip.open(packed, "wb", compresslevel=1) as target:
            shutil.copyfileobj(source, target, MEGABYTE)
        print(f"{'file':<12} {'MB':>6} {'seconds':>8} {'of CPU':>7} {'MB/s':>6} {'peak MB':>8}  verdict")
        for file in (plain, packed):
            size, took = plain.stat().st_size / MEGABYTE, measured(file)
            figures = f"{took.seconds:>8.1f} {took.cpu:>7.1f} {size / took.seconds:>6.0f} {took.peak:>8.0f}"
            print(f"{file.name:<12} {size:>6.0f} {figures}  {took.verdict}")
    finally:
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Took:
    """What one process took: seconds, those of the CPU, its peak in megabytes of memory; what it found."""

    seconds: float
    cpu: float
    peak: float
    verdict: str


def measured(file: Path) -> Took:
    """One process that reads the file. The two kinds of seconds differ on a machine that has more to do."""
    command = [sys.executable, "-m", "cluster.cli", "nccl", "--json", str(file)]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    answer = json.loads(said)
    assert process.returncode == 0, answer["reason"]
    assert len(answer["ranks"]) == RUN.nodes * RUN.gpus
    verdict = f"{answer['verdict']}, {len(answer['edges'])} edges"
    return Took(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / MEGABYTE, verdict)


def write(file: Path, size: int) -> None:
    """NCCL's start spread over the first third, with the rest between it and after it."""
    start = text_of(pieces(RUN, Way("vllm-ray"))).splitlines(keepends=True)
    rest, written = other_lines(Random(1)), 0
    every = max(1, len(start) * AT_ONCE * 3 // max(1, size // 230))
    with open(file, "wb") as target:
        for at in range(0, len(start), every):
            written += target.write(b"".join(start[at : at + every]))
            written += target.write(b"".join(next(rest) for _ in range(AT_ONCE)))
        while written < size:
            written += target.write(b"".join(next(rest) for _ in range(AT_ONCE)))


def other_lines(random: Random) -> Iterator[bytes]:
    """Seven of ten are of collectives, two of proxies, one is vLLM's."""
    number = 0
    while True:
        number += 1
        rank = random.randrange(512)
        node, local = divmod(rank, 8)
        pid = 1000 + local
        tag = f"(EngineCore pid=6618) \x1b[36m(RayWorkerProc pid={pid}, ip=10.0.0.{node + 11})\x1b[0m"
        who = f"{tag} gpu-{node + 1:02d}:{pid}:{pid} [{local}] NCCL INFO"
        if number % 10 < 7:
            line = (
                f"{who} AllReduce: opCount {number:x} sendbuff 0x7f{number * 512:010x} recvbuff "
                f"0x7f{number * 512:010x} count {number % 4096 * 8192} datatype 9 op 0 root 0 comm "
                f"0x55d0{rank:04x}0001 [nranks=8] stream 0x3f1c{rank:04x}"
            )
        elif number % 10 < 9:
            line = (
                f"{who} New proxy send connection {number} from local rank {local}, transport 2\n"
                f"{who} Connected to proxy localRank {local} -> connection 0x7f28{number:08x}"
            )
        else:
            line = (
                "(APIServer pid=6349) INFO 11-21 06:15:17 [loggers.py:248] Engine 000: "
                f"Avg prompt throughput: {number % 9973 / 10} tokens/s, "
                f"Avg generation throughput: {number % 7919 / 10} tokens/s, "
                f"Running: {number % 256} reqs, Waiting: 0 reqs, GPU KV cache usage: {number % 100}.0%"
            )
        yield f"{line}\n".encode()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
