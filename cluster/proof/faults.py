"""Whose fault it is that ranks do not come to their end: the silent before those that waited. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from cluster.checks.system import verify_port_taken
from cluster.errors import Problem
from cluster.nccl import Cause, Report
from cluster.proof.answers import Heard, RankEnd

MOST_CAUSES = 3
PORT_TAKEN = "port taken"
# What a rank says when another one has left it: gloo's, TCPStore's and NCCL's words.
WAITED = re.compile(
    r"timed? ?out|connection (was )?(likely )?(closed|reset|refused|aborted)|closed by (remote )?peer"
    r"|broken pipe|got 0 bytes|ncclRemoteError|should dump|monitoredBarrier",
    re.IGNORECASE,
)
OUT_OF_MEMORY = re.compile(r"out of memory|OutOfMemory", re.IGNORECASE)
STANDING_STILL = {
    "T": "stopped, as by SIGSTOP or a debugger",
    "t": "stopped by a debugger",
    "D": "in the kernel, waiting for a device or a file system",
    "Z": "gone",
}
ALL_ANSWER = "an answer from every rank"
GONE = "`clusterctl status` says what runs there; `clusterctl up` brings back what is gone"
AGAIN = "One measures at a time, the last that came: run it again when the other is done"


def faults(heard: Heard, report: Report | None) -> tuple[Problem, ...]:
    """Errors only; nothing where every rank came to its end.

    Those that are to blame, as far as that can be told: a node whose line broke or that cannot measure, a
    rank that failed by itself, never came or stands still. Those that merely waited are named where no one
    else is.
    """
    return (
        *_of_nodes(heard),
        *_missing(heard),
        *_failed(heard, report),
        *_standing_still(heard),
    ) or tuple(_waited(heard, report))


def ranks_in_words(ranks: Iterable[int]) -> str:
    """`rank 3`, `ranks 0, 1`."""
    numbers = sorted(set(ranks))
    return f"rank{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _of_nodes(heard: Heard) -> Iterator[Problem]:
    for node, why in heard.unheard.items():
        yield _problem(heard, "verify-failed", node, why, GONE)
    for node, answer in heard.answers.items():
        if answer.error == PORT_TAKEN:
            yield verify_port_taken(node, heard.plan.verify_port)
        elif answer.error and not answer.ranks:
            yield _problem(heard, "verify-failed", node, answer.error)
        elif answer.error == "terminated":
            yield _problem(heard, "verify-failed", node, "it was told to end, as by another `verify`", AGAIN)


def _missing(heard: Heard) -> Iterator[Problem]:
    """Ranks that never came, on nodes that are not blamed already."""
    blamed = {*heard.unheard, *(node for node, answer in heard.answers.items() if answer.error == PORT_TAKEN)}
    own_words = {rank.rank for rank in heard.ranks if _is_own_fault(rank)}
    absent = {number for rank in heard.ranks for number in rank.missing} - own_words
    for node, ranks in _by_node(heard, absent):
        if node not in blamed:
            found = f"{ranks_in_words(ranks)} did not come to the others at {_meeting_point(heard)}"
            yield _problem(heard, "verify-hang", node, found, _reach(heard, node))


def _meeting_point(heard: Heard) -> str:
    return f"{heard.plan.head.address}:{heard.plan.verify_port}"


def _reach(heard: Heard, node: str) -> str:
    return (
        f"Run `nc -vz {heard.plan.head.address} {heard.plan.verify_port}` on {node} meanwhile, and "
        "`clusterctl check`, which tries the ports between the nodes"
    )


def _failed(heard: Heard, report: Report | None) -> Iterator[Problem]:
    failed = filter(_is_own_fault, heard.ranks)
    for (node, stage, error), ranks in _grouped(heard, failed, lambda rank: rank.error).items():
        found = f"{ranks_in_words(ranks)} failed in {stage}: {_short(error)}"
        yield _problem(heard, "verify-failed", node, found, _of_memory(node, error) or _causes(report))


def _of_memory(node: str, error: str) -> str:
    """Empty where it is something else that lacked."""
    if not OUT_OF_MEMORY.search(error):
        return ""
    return (
        f"Other processes hold the GPU memory of {node}, as a model that serves does: `nvidia-smi "
        "--query-compute-apps=pid,process_name,used_memory --format=csv` there lists them; measure while no "
        "model is loaded, or with a smaller gpu-memory-utilization in serve.args"
    )


def _is_own_fault(rank: RankEnd) -> bool:
    """Being killed is nobody's echo; an exception or an abort may be one of another rank's end."""
    if rank.state not in ("failed", "died") or rank.missing:
        return False
    return not WAITED.search(rank.error)


def _standing_still(heard: Heard) -> Iterator[Problem]:
    """Of the ranks that hang: those that the kernel shows standing still, or else those behind the others."""
    hung = [rank for rank in heard.ranks if rank.state == "hung"]
    still = [rank for rank in hung if rank.process in STANDING_STILL]
    others_to_blame = heard.unheard or any(map(_is_own_fault, heard.ranks))
    if not still and not others_to_blame:
        furthest = max((rank.steps for rank in heard.ranks), default=0)
        still = [rank for rank in hung if rank.steps < furthest]
    for (node, stage, process), ranks in _grouped(heard, still, lambda rank: rank.process).items():
        how = STANDING_STILL.get(process, "the others are further")
        yield _problem(heard, "verify-hang", node, f"{_hang(ranks)} in {stage}: {how}")


def _waited(heard: Heard, report: Report | None) -> Iterator[Problem]:
    """Nobody stands out: all that hang or were left, by node."""
    left = [rank for rank in heard.ranks if rank.state not in ("done", "")]
    for (node, stage, error), ranks in _grouped(heard, left, lambda rank: rank.error).items():
        why = f": {_short(error)}" if error else ""
        yield _problem(heard, "verify-hang", node, f"{_hang(ranks)} in {stage}{why}", _causes(report))


# --- in words -------------------------------------------------------------------------------------


def _grouped(
    heard: Heard, ranks: Iterable[RankEnd], what: Callable[[RankEnd], str]
) -> dict[tuple[str, str, str], list[int]]:
    """{(node, stage, what they have in common): ranks}: one problem for all ranks with the same story."""
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for rank in ranks:
        groups[heard.node_of(rank.rank), rank.stage, what(rank)].append(rank.rank)
    return groups


def _by_node(heard: Heard, ranks: Iterable[int]) -> Iterable[tuple[str, list[int]]]:
    nodes: Mapping[str, list[int]] = defaultdict(list)
    for rank in sorted(ranks):
        nodes[heard.node_of(rank)].append(rank)
    return nodes.items()


def _hang(ranks: list[int]) -> str:
    return f"{ranks_in_words(ranks)} {'hangs' if len(ranks) == 1 else 'hang'}"


def _short(error: str) -> str:
    """The first line, and the last where it says more: torch puts C++ frames between."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    if not lines:
        return "it said nothing"
    return lines[0] if lines[-1] == lines[0] else f"{lines[0]} ... {lines[-1]}"


def _causes(report: Report | None) -> str:
    """What NCCL's own log says of it, in order of likelihood."""
    causes: tuple[Cause, ...] = report.problems[:MOST_CAUSES] if report is not None else ()
    return "\n".join(f"{cause.remedy} [{cause.id}: {cause.evidence}]" for cause in causes)


def _problem(heard: Heard, id_: str, node: str, found: str, remedy: str = "") -> Problem:
    by_hand = (
        f"`sh ~/{heard.plan.member(node).folder}/run_cluster.sh verify` on all nodes at once does it by hand"
    )
    waited = [rank.rank for rank in heard.ranks if _merely_waited(rank)]
    others = sorted({heard.node_of(rank) for rank in waited} - {node})
    left = f"; {ranks_in_words(waited)} on {', '.join(others)} waited" if others else ""
    return Problem(id_, node, found, ALL_ANSWER, (remedy or by_hand) + left)


def _merely_waited(rank: RankEnd) -> bool:
    return rank.state in ("hung", "failed") and not _is_own_fault(rank) and rank.process not in STANDING_STILL
