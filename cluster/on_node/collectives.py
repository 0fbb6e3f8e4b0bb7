"""Measures what the nodes carry between their GPUs; every node runs it at the same time.

    python3 collectives.py --head ADDRESS --port PORT --node-rank N --gpus 2,2 --backend nccl|gloo --stride TP

Starts one collectives_rank.py for each GPU of this node and watches them: a rank that stays in one stage for
too long is named and killed, with the others. Prints ONE JSON object, whatever happens, and exits with 0:

    {"node_rank": 0, "backend": "gloo", "torch": "2.13.0", "seconds": 4.1, "error": "",
     "ranks": [{"rank": 0, "state", "stage", "steps", "error", "missing", "process"}, ...],
     "sweep": [{"bytes", "seconds", "iterations"}, ...], "sweep_end": "largest",
     "stages": [{"src", "dst", "bytes", "seconds"}, ...], "pairs": [{"src", "dst", "bytes", "seconds"}, ...],
     "logs": [{"pid", "size", "cut", "gzip": BASE64}, ...]}

`state` is done, failed (an exception: `error`), died (of a signal, or without a word) or hung, and `stage`
what it was doing; `steps` is how many stages it has entered, the same ones for all. `missing` are ranks that
never came, and `process` is the kernel's letter for a rank that hung: T stopped, D waiting in the kernel.
`error` is what ended all: port taken, terminated, out of time. `sweep_end` is why the sweep has no larger
size: that was the largest, a larger one would take too much time, or memory that is not free.
It needs no line to the operator to end by itself, and leaves no process and no file. One that is started
while another still runs on the node ends that one first.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from .collectives_alone import is_obeyed, take_over
    from .collectives_process import GRACE_S, JOINING, MEETING, STARTING, Rank, end
    from .packed_log import packed
else:  # as a program on a node
    sys.dont_write_bytecode = True  # nothing is left beside it
    from collectives_alone import is_obeyed, take_over
    from collectives_process import GRACE_S, JOINING, MEETING, STARTING, Rank, end
    from packed_log import packed

RANK = Path(__file__).with_name("collectives_rank.py")
LARGEST_LOG = 4 << 20  # bytes of each rank's; NCCL needs some 100 KB for a communicator of 16
DEBUG = {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,BOOTSTRAP,ENV,NET,GRAPH"}
# Ranks with unlike numbers of network devices would hang (https://github.com/NVIDIA/nccl/issues/2428).
DEFAULTS = {"NCCL_IGNORE_NET_MISMATCH": "0", "OMP_NUM_THREADS": "1"}


def main() -> None:
    arguments = parse_arguments()
    told, tell = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # An exception out of a handler could come between the start of a rank and the note of it.
        signal.signal(number, lambda *_: os.write(tell, b"."))
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="clusterctl-verify-"))
    watch = Watch(arguments, folder)
    try:
        error = watch.run(told)
    except OSError as failure:
        error = f"{type(failure).__name__}: {failure}"
    finally:
        end(watch.ranks)
    answer = {**watch.answer(), "error": error, "seconds": round(time.monotonic() - started, 3)}
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(answer), flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure collectives between all GPUs of all nodes.")
    parser.add_argument("--head", required=True, help="the address of node rank 0")
    parser.add_argument("--port", type=int, required=True, help="where rank 0 listens for the others")
    parser.add_argument("--node-rank", type=int, required=True)
    parser.add_argument(
        "--gpus", type=numbers, required=True, help="of every node, in order of node rank: 8,8"
    )
    parser.add_argument("--backend", choices=("nccl", "gloo"), required=True)
    parser.add_argument("--stride", type=int, required=True, help="from a rank to the next pipeline stage's")
    parser.add_argument(
        "--start-limit",
        type=float,
        default=60.0,
        help="seconds to import torch, as many to join, as many for the communicator",
    )
    parser.add_argument("--stage-limit", type=float, default=20.0, help="seconds for each measurement")
    parser.add_argument("--total-limit", type=float, default=120.0, help="seconds for all of it")
    return parser.parse_args()


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


class Watch:
    """The ranks of this node, until they end or have to."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder = arguments, folder
        self.ranks: list[Rank] = []

    def run(self, told: int) -> str:
        """Why it ended before its time; empty where every rank came to its own end. Raises OSError.

        `told` is a file descriptor that becomes readable where somebody wants it to end.
        """
        arguments = self.arguments
        self.alone = take_over(f"\0clusterctl-verify-{arguments.port}-{arguments.node_rank}")
        if arguments.node_rank == 0 and is_taken(arguments.port):
            return "port taken"
        deadline = time.monotonic() + arguments.total_limit
        first = sum(arguments.gpus[: arguments.node_rank])
        with selectors.DefaultSelector() as pipes:
            pipes.register(told, selectors.EVENT_READ)
            pipes.register(self.alone, selectors.EVENT_READ)
            for local_rank in range(arguments.gpus[arguments.node_rank]):
                rank = self.start(first + local_rank, local_rank)
                pipes.register(rank.process.stdout, selectors.EVENT_READ, rank)  # type: ignore[arg-type]
            while len(pipes.get_map()) > 2:
                left = min(deadline, self.patience()) - time.monotonic()
                if left <= 0:
                    return self.give_up()
                for key, _ in pipes.select(left):
                    if key.data is not None:
                        self.hear(key.data, pipes)
                    elif self.has_to_end(key.fileobj):
                        return "terminated"
        return ""

    def has_to_end(self, by: object) -> bool:
        """By a signal, or by another of its kind, which waits until this one is gone."""
        if by is not self.alone:
            return True
        self.successor = is_obeyed(self.alone)
        return self.successor is not None

    def start(self, number: int, local_rank: int) -> Rank:
        arguments = self.arguments
        errors = self.folder / f"stderr.{number}"
        words = {**vars(arguments), "rank": number, "local_rank": local_rank}
        log = {"NCCL_DEBUG_FILE": str(self.folder / f"nccl.{number}")}
        with errors.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-B", str(RANK), json.dumps(words)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**DEFAULTS, **os.environ, **DEBUG, **log},
                cwd=self.folder,
                start_new_session=True,
            )
        self.ranks.append(Rank(number, process, errors))
        return self.ranks[-1]

    def hear(self, rank: Rank, pipes: selectors.BaseSelector) -> None:
        assert rank.process.stdout is not None
        content = os.read(rank.process.stdout.fileno(), 1 << 16)
        if content:
            rank.hear(content)
            return
        pipes.unregister(rank.process.stdout)
        rank.ended()

    def patience(self) -> float:
        """Until when: the first limit of a rank that still runs, or a little after one has failed."""
        running = [rank.since + self.limit(rank) for rank in self.ranks if not rank.state]
        failed = [rank.since + GRACE_S for rank in self.ranks if rank.state in ("failed", "died")]
        ending = [rank.since + GRACE_S for rank in self.ranks if rank.state == "done"] if not running else []
        return min(running + failed + ending)

    def limit(self, rank: Rank) -> float:
        start = self.arguments.start_limit
        limits = {STARTING: start, JOINING: start + GRACE_S, MEETING: start}
        return float(limits.get(rank.stage, self.arguments.stage_limit))

    def give_up(self) -> str:
        """What still runs now hung, or waited for one that did."""
        running = [rank for rank in self.ranks if not rank.state]
        for rank in running:
            rank.hung()
        return "out of time" if running else ""

    def answer(self) -> dict[str, Any]:
        logs = [(rank.process.pid, self.folder / f"nccl.{rank.number}") for rank in self.ranks]
        said = [line for rank in self.ranks for line in rank.said]
        return {
            "node_rank": self.arguments.node_rank,
            "backend": self.arguments.backend,
            "torch": next((line["torch"] for line in said if "torch" in line), ""),
            "ranks": [rank.report for rank in self.ranks],
            # All ranks agree on each figure of the sweep, so one that heard them all speaks for all.
            "sweep": max(
                ([s["sweep"] for s in r.said if "sweep" in s] for r in self.ranks), key=len, default=[]
            ),
            "sweep_end": next((line["sweep_end"] for line in said if "sweep_end" in line), ""),
            "stages": [line["stages"] for line in said if "stages" in line],
            "pairs": [line["pair"] for line in said if "pair" in line],
            "logs": [{"pid": pid, **log} for pid, path in logs if (log := packed(path, LARGEST_LOG))],
        }


def is_taken(port: int) -> bool:
    """Whether rank 0 could not listen there, as it will, on all addresses."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
            listener.listen()
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


if __name__ == "__main__":
    main()
