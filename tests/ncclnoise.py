"""What happens to NCCL's lines on their way into a file: prefixes, colours, interleaving, folding, cuts.

A log is a list of pieces, each of which knows the line that it comes from: so a test can tell what survived.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from tests.nccllog import Line, Process, Run, processes

# Ray's own: words with digits do not tell lines apart (ray/_private/ray_logging, _canonicalise_log_line).
NUMBERS = re.compile(r"\d+|0x[0-9a-fA-F]+")
REPEATED = "\x1b[32m [repeated {}x across cluster]{}\x1b[0m"
HINT = (
    " (Ray deduplicates logs by default. Set RAY_DEDUP_LOGS=0 to disable log deduplication, or see "
    "https://docs.ray.io/en/master/ray-observability/user-guides/configure-logging.html#log-deduplication "
    "for more options.)"
)
PREFIXES: Mapping[str, str] = {
    "none": "",
    "ray": "(RayWorkerProc pid={pid}, ip={address}) ",
    "ray-colour": "\x1b[36m(RayWorkerProc pid={pid}, ip={address})\x1b[0m ",
    "vllm-ray": "(EngineCore pid=6618) \x1b[36m(RayWorkerProc pid={pid}, ip={address})\x1b[0m ",
    "vllm": "\x1b[0;36m(Worker_TP{rank} pid={pid})\x1b[0;0m ",
    "vllm-old": "(VllmWorker rank={rank} pid={pid}) ",
    "torchrun": "[default{local}]:",
    "rank": "[rank{rank}] ",
    "mpirun": "[1,{rank}]<stdout>:",
    "srun": "{rank}: ",
    "compose": "vllm-{rank}  | ",
    "docker": "2026-11-21T06:15:17.123456789Z ",
    "kubectl": "[pod/vllm-{node}/worker] 2026-11-21T06:15:17.123456789+00:00 ",
    "journal": "Nov 21 05:20:00 {host} docker[{pid}]: ",
    "clusterctl": "2026-11-21T05:20:00.123 {host} serve ",
}


@dataclass(frozen=True)
class Piece:
    """`text`: what is left of `origin` at this place of the file, with prefix and line end."""

    origin: Line
    text: bytes
    whole: bool = True


@dataclass(frozen=True)
class Way:
    """How the lines reach the file."""

    prefix: str = "none"
    crlf: bool = False
    seed: int = 0


PLAIN = Way()


def pieces(run: Run, way: Way = PLAIN) -> list[Piece]:
    """The interleaved log of all processes; each one's own order stays."""
    return interleaved([written(run, process, way) for process in processes(run)], Random(way.seed))


def interleaved(logs: Sequence[Sequence[Piece]], random: Random) -> list[Piece]:
    turns = [number for number, log in enumerate(logs) for _ in log]
    random.shuffle(turns)
    left = [iter(log) for log in logs]
    return [next(left[turn]) for turn in turns]


def written(run: Run, process: Process, way: Way) -> list[Piece]:
    """One process's lines as they reach the file. A blank one gets no prefix from Ray."""
    end = "\r\n" if way.crlf else "\n"
    prefix = PREFIXES[way.prefix].format(
        pid=process.pid,
        address=process.address,
        rank=process.rank,
        local=run.local(process.rank),
        node=run.node(process.rank),
        host=process.host,
    )
    return [Piece(line, (prefix + line.text + end).encode()) for line in process.lines]


def text_of(log: Iterable[Piece]) -> bytes:
    return b"".join(piece.text for piece in log)


# --- damage ---------------------------------------------------------------------------------------


def cut(log: Sequence[Piece], end: int) -> list[Piece]:
    """The first `end` bytes."""
    kept: list[Piece] = []
    for piece in log:
        if end <= 0:
            break
        kept.append(piece if len(piece.text) <= end else Piece(piece.origin, piece.text[:end], False))
        end -= len(piece.text)
    return kept


def tail(log: Sequence[Piece], start: int) -> list[Piece]:
    """All but the first `start` bytes."""
    kept: list[Piece] = []
    for piece in log:
        if start < len(piece.text):
            text = piece.text[max(start, 0) :]
            kept.append(Piece(piece.origin, text, piece.whole and start <= 0))
        start -= len(piece.text)
    return kept


def without(log: Sequence[Piece], first: int, last: int) -> list[Piece]:
    """The log without the bytes in between: a block that was never written."""
    return [*cut(log, first), *tail(log, last)]


def collided(log: Sequence[Piece], number: int, at: int) -> list[Piece]:
    """Two writers: the next line comes into the middle of this one, its end goes on after it."""
    if number + 1 >= len(log):
        return list(log)
    first, second = log[number : number + 2]
    at = min(at, len(first.text) - 1)
    broken = [
        Piece(first.origin, first.text[:at], False),
        Piece(second.origin, second.text, False),
        Piece(first.origin, first.text[at:], False),
    ]
    return [*log[:number], *broken, *log[number + 2 :]]


def swapped(log: Sequence[Piece], number: int, at: int, other: int) -> list[Piece]:
    """Two writers: each line goes on with the other one's end."""
    if number + 1 >= len(log):
        return list(log)
    first, second = log[number : number + 2]
    at, other = min(at, len(first.text) - 1), min(other, len(second.text) - 1)
    broken = [
        Piece(first.origin, first.text[:at], False),
        Piece(second.origin, second.text[other:], False),
        Piece(second.origin, second.text[:other], False),
        Piece(first.origin, first.text[at:], False),
    ]
    return [*log[:number], *broken, *log[number + 2 :]]


def folded(run: Run, way: Way) -> list[Piece]:
    """Ray's driver log with its default, RAY_DEDUP_LOGS=1, all lines within one window of five seconds.

    A line that another process said already, but for its numbers, is not printed; at the end the last of
    each kind is, with how many there were.
    """
    seen: dict[str, tuple[set[int], list[Piece]]] = {}
    printed: list[Piece] = []
    logs = [[(process.rank, piece) for piece in written(run, process, way)] for process in processes(run)]
    turns = [number for number, log in enumerate(logs) for _ in log]
    Random(way.seed).shuffle(turns)
    left = [iter(log) for log in logs]
    for rank, piece in (next(left[turn]) for turn in turns):
        key = " ".join(word for word in piece.origin.text.split() if not NUMBERS.search(word))
        sources, waiting = seen.setdefault(key, (set(), []))
        sources.add(rank)
        if key and len(sources) > 1:
            waiting.append(piece)
        else:
            printed.append(piece)
    return [*printed, *_repeated(waiting for _, waiting in seen.values())]


def _repeated(kinds: Iterable[list[Piece]]) -> Iterable[Piece]:
    hint = HINT
    for waiting in kinds:
        if len(waiting) == 1:
            yield waiting[0]
        elif waiting:
            last = waiting[-1]
            text = last.text.rstrip(b"\r\n") + REPEATED.format(len(waiting), hint).encode() + b"\n"
            hint = ""
            yield Piece(last.origin, text, False)
