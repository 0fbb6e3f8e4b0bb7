"""Damaged logs: the reader never raises, and never says `gdrdma` where that is not shown.

CLUSTERCTL_FUZZ=20000 runs as many examples of each; a few dozen are enough to notice a rule that broke.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cluster.nccl import REQUIRE, Report, holds, read, report_json
from cluster.nccl.table import headline, node_matrix, node_pairs, nodes, rank_matrix
from tests.nccllog import NETWORKS, VERSIONS, Hop, Run, verdict
from tests.ncclnoise import (
    PREFIXES,
    Piece,
    Way,
    collided,
    cut,
    folded,
    pieces,
    swapped,
    tail,
    text_of,
    without,
)

EXAMPLES = int(os.environ.get("CLUSTERCTL_FUZZ", "0"))
TELLS = re.compile(rb"Init (?:START|COMPLETE)|Trees \[|Channel \d+/\d+ : +\d")
STAMP = re.compile(r"^\[[-\d :]+\] ")
Damage = Callable[[Sequence[Piece]], list[Piece]]


def thorough(examples: int) -> settings:
    return settings(
        max_examples=EXAMPLES or examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )


@st.composite
def runs(draw: st.DrawFn) -> Run:
    nodes = draw(st.sampled_from((2, 2, 3, 1)))
    gpus, channels = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kinds = st.sampled_from([(), ("tensor",), ("pipeline",), ("messages",), ("tensor", "messages")])
    run = Run(
        version=draw(st.sampled_from(VERSIONS)),
        nodes=nodes,
        gpus=gpus,
        channels=channels,
        network=draw(st.sampled_from(("IB", *NETWORKS))),
        gdr=draw(st.booleans()) or draw(st.booleans()),
        groups=("world", *draw(kinds)),
        **{
            name: draw(st.booleans())
            for name in (
                *("pxn", "shm", "over_pci", "runtime_connect", "by_split", "one_host", "stamps"),
                *("connects_late", "merged_ports"),
            )
        },
    )
    return replace(
        run,
        without_gdr=draw(some_channels(run)),
        received_without_gdr=draw(some_channels(run)),
        only_in=draw(st.sampled_from((None, *run.groups))),
    )


def some_channels(run: Run) -> st.SearchStrategy[frozenset[tuple[int, int, int]]]:
    """Often one or two channels between nodes, as happens where one HCA is too far from its GPU."""
    there = sorted({(hop.src, hop.dst, hop.channel) for hop in run.between_nodes})
    if not there:
        return st.just(frozenset())
    return st.frozensets(st.sampled_from(there), max_size=2)


ways = st.builds(Way, st.sampled_from(sorted(PREFIXES)), st.booleans(), st.integers(0, 9))


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    """Up to three of: cut the end, cut the beginning, lose a block, let two lines run into each other."""
    kinds = st.tuples(st.sampled_from([cut_end, cut_beginning, lose, collide, swap]), st.integers(0, 2**32))
    chosen = draw(st.lists(kinds, min_size=1, max_size=3))

    def damage(log: Sequence[Piece]) -> list[Piece]:
        for kind, seed in chosen:
            log = kind(log, Random(seed))
        return list(log)

    return damage


def size_of(log: Sequence[Piece]) -> int:
    return sum(len(piece.text) for piece in log)


def cut_end(log: Sequence[Piece], random: Random) -> list[Piece]:
    return cut(log, random.randint(0, size_of(log)))


def cut_beginning(log: Sequence[Piece], random: Random) -> list[Piece]:
    return tail(log, random.randint(0, size_of(log) // 2))


def lose(log: Sequence[Piece], random: Random) -> list[Piece]:
    first = random.randint(0, size_of(log))
    return without(log, first, first + random.choice((1, 5, 20, 100, 400, 2000)))


def collide(log: Sequence[Piece], random: Random) -> list[Piece]:
    return collided(log, channel_line(log, random), random.randint(0, 160)) if log else []


def swap(log: Sequence[Piece], random: Random) -> list[Piece]:
    if not log:
        return []
    return swapped(log, channel_line(log, random), random.randint(0, 160), random.randint(0, 160))


def channel_line(log: Sequence[Piece], random: Random) -> int:
    """Mostly a line of a channel: there it hurts."""
    there = [number for number, piece in enumerate(log) if piece.origin.hop]
    return random.choice(there) if there and random.random() < 0.8 else random.randrange(len(log))


def report_of(log: Sequence[Piece]) -> Report:
    return read([("log", [text_of(log)])])


def is_bad(hop: Hop | None) -> bool:
    return hop is not None and hop.crosses and not hop.gdrdma


def shows_a_bad_channel(log: Sequence[Piece]) -> bool:
    """A channel between nodes lacks GPUDirect RDMA, and enough of a line is left to see a channel in it."""
    return any(is_bad(p.origin.hop) and (b" -> " in p.text or b" via " in p.text) for p in log)


def end_is_missing(whole: Sequence[Piece], log: Sequence[Piece]) -> bool:
    """Of some channel between nodes, one end's line is not whole any more in all communicators that have it.

    What stands before and after NCCL's own words does not matter. Of a communicator that no line begins any
    more nobody can tell. Where several join the same ranks their lines are the same: as many are needed.
    """
    text = text_of(log)
    begun = {piece.origin.within for piece in log if piece.whole and TELLS.search(piece.text)}
    needed = Counter(
        STAMP.sub("", piece.origin.text).encode()
        for piece in whole
        if piece.origin.hop and piece.origin.hop.crosses and piece.origin.within in begun
    )
    return any(text.count(words) < times for words, times in needed.items())


@thorough(50)
@given(run=runs(), way=ways)
def test_a_whole_log_tells_the_truth(run: Run, way: Way) -> None:
    report = report_of(pieces(run, way))
    assert report.verdict == verdict(run), report.reason


@thorough(60)
@given(run=runs(), way=ways, damage=damages())
def test_a_damaged_log_is_no_proof(run: Run, way: Way, damage: Damage) -> None:
    whole = pieces(run, way)
    log = damage(whole)
    report = report_of(log)
    if report.verdict == "gdrdma":
        assert run.nodes > 1
        assert run.network not in ("Socket", "OFI")
        assert not shows_a_bad_channel(log)
        assert not end_is_missing(whole, log), text_of(log)


@thorough(20)
@given(run=runs(), damage=damages())
def test_a_damaged_report_can_be_shown(run: Run, damage: Damage) -> None:
    report = report_of(damage(pieces(run)))
    assert report_json(report)["verdict"] == report.verdict
    assert headline(report)
    for table in (nodes, node_pairs, node_matrix, rank_matrix):
        columns, rows = table(report)
        assert all(len(row) == len(columns) for row in rows)


@thorough(20)
@given(run=runs(), seed=st.integers(0, 9))
def test_folded_lines_are_no_proof(run: Run, seed: int) -> None:
    log = folded(run, Way("ray-colour", seed=seed))
    never_flushed = [piece for piece in log if b" [repeated " not in piece.text]
    lost = {piece.origin for piece in pieces(run) if piece.origin.hop and piece.origin.hop.crosses}
    lost -= {piece.origin for piece in log if piece.whole}
    if lost:
        assert report_of(log).verdict != "gdrdma"
        assert report_of(never_flushed).verdict != "gdrdma"


@pytest.mark.parametrize("version", ["2.18.1", "2.22.3", "2.26.5", "2.30.7"])
@pytest.mark.parametrize("kept", [b" [send] ", b" [receive] "])
def test_every_cut_of_a_bad_channel(version: str, kept: bytes) -> None:
    """The last line is of the only channel without GPUDirect RDMA, said by one end, cut at every byte."""
    run = Run(version, without_gdr=frozenset({(3, 0, 0)}), channels=1)
    log = pieces(run)
    bad = [piece for piece in log if is_bad(piece.origin.hop)]
    rest = [piece for piece in log if not is_bad(piece.origin.hop)]
    last = next(piece for piece in bad if kept in piece.text)
    for end in range(len(last.text) + 1):
        assert report_of(cut([*rest, last], size_of(rest) + end)).verdict != "gdrdma"


def test_a_communicator_of_which_the_end_is_left() -> None:
    """Its processes have one hostname: whether it goes over nodes was said by lines that are gone."""
    log = pieces(Run("2.20.5", gpus=1, groups=("world", "messages"), one_host=True))
    left = [
        piece
        for piece in log
        if piece.origin.within is None
        or piece.origin.within.name != "world"
        or b"Init COMPLETE" in piece.text
    ]
    assert report_of(log).verdict == "gdrdma"
    assert report_of(left).verdict == "unknown"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_communicator_that_is_not_finished(version: str) -> None:
    """The first is proven whole; of the second, the log ends before its ranks are connected."""
    log = pieces(Run(version, gpus=1, groups=("world", "pipeline")))
    second = [n for n, piece in enumerate(log) if (group := piece.origin.within) and group.name != "world"]
    graph = next(n for n in second if b"Trees [" in log[n].text)
    assert report_of(log).verdict == "gdrdma"
    assert report_of(log[: graph + 1]).verdict in ("incomplete", "unknown")


@thorough(50)
@given(st.lists(st.binary(max_size=400), max_size=5))
@example(
    [b"vm:1:1 [0] NCCL INFO Channel 00/0 : 99999999999999999999[0] -> 1[0] [send] via NET/IB/0/GDRDMA\n"]
)
@example([b"NCCL INFO Channel 00/0 : 0[0] -> 1[0] [send] via NET/", b"\n", b"\xff\xfe NCCL INFO \x00\n"])
@example([b"vm:1:1 [0] NCCL INFO comm 0x1 rank 5 nranks 2 cudaDev 0 busId 60 commId 0x2 - Init COMPLETE\n"])
@example(
    [b"vm:1:1 [0] NCCL INFO comm 0x1 rank 0 nranks 2000000000 cudaDev 0 busId 6 commId 0x2 - Init COMPLETE\n"]
)
def test_any_bytes_are_read(blocks: list[bytes]) -> None:
    report = read([("any", blocks)])
    assert report.verdict != "gdrdma"
    assert not any(holds(report, need) for need in REQUIRE if need in ("ib", "roce", "gdrdma"))


RANK_BEYOND_THE_SIZE = Run(
    "2.24.3",
    gpus=1,
    channels=1,
    network="RoCE",
    without_gdr=frozenset({(0, 1, 0)}),
    groups=("world", "messages"),
)


@thorough(20)
@example(run=RANK_BEYOND_THE_SIZE, way=Way("srun", True, 2), seed=1, share=0.01)
@given(run=runs(), way=ways, seed=st.integers(0, 2**32), share=st.sampled_from([0.0001, 0.001, 0.01]))
def test_bytes_that_changed_do_not_matter(run: Run, way: Way, seed: int, share: float) -> None:
    """A disk that lies: nothing can be said of the verdict, only that there is one."""
    random, text = Random(seed), bytearray(text_of(pieces(run, way)))
    for _ in range(int(len(text) * share) + 1):
        text[random.randrange(len(text))] = random.randrange(256)
    assert read([("log", [bytes(text)])]).verdict
