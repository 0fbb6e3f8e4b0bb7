"""Lines out of blocks, and who speaks in them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.nccl import read
from cluster.nccl.lines import LONGEST, cleaned, scan
from cluster.nccl.speech import Speaker, said

WHO = "vm:1564:1565 [0] NCCL INFO "
CHANNEL = "Channel 00/0 : 0[0] -> 2[2] [send] via NET/IB/0"


def taken(*blocks: bytes) -> list[tuple[bytes, bool]]:
    lines: list[tuple[bytes, bool]] = []
    scan(blocks, lambda line, whole: lines.append((line, whole)))
    return lines


def test_only_what_may_be_nccl_is_taken() -> None:
    text = b"hello\nvm:1:1 [0] NCCL INFO a\nworld\n0] [send] via NET/IB/0\nlast NCCL"
    expected = [(b"vm:1:1 [0] NCCL INFO a", True), (b"0] [send] via NET/IB/0", True), (b"last NCCL", False)]
    assert taken(text) == expected
    assert taken(*(bytes([byte]) for byte in text)) == expected


def test_a_line_without_end_is_capped() -> None:
    blocks = [b"NCCL " + b"x" * LONGEST, *[b"y" * 1000] * 200, b"\nNCCL b\n"]
    lines = taken(*blocks)
    assert [(len(line), whole) for line, whole in lines] == [(LONGEST, False), (6, True)]


@pytest.mark.parametrize(
    "prefix",
    [
        *("", "[rank0] ", "[default0]:", "[1,0]<stdout>:", "node-0  | ", "0: "),
        "2026-11-21T05:35:32.373430237Z ",
        "2026-11-21T05:35:32.373430237Z stdout F ",
        "(RayWorkerProc pid=123, ip=10.0.0.2) ",
        "(EngineCore pid=6618) \x1b[36m(RayWorkerProc pid=7747)\x1b[0m ",
        "(Worker_TP0 pid=77) \x1b[1;36m",
        "2026-11-21T05:35:32.373 gpu-01 serve ",
        "[2026-11-21 05:35:32] ",
        '{"log":"',
    ],
)
def test_prefixes(prefix: str) -> None:
    end = '\\n","stream":"stdout","time":"2026-11-21T05:35:32Z"}' if prefix.startswith("{") else "\r"
    (piece,) = said(cleaned(f"{prefix}{WHO}{CHANNEL}{end}".encode()), True)
    assert (piece.speaker, piece.level, piece.message) == (Speaker("vm", 1564, 1565, 0), "INFO", CHANNEL)


@pytest.mark.parametrize(
    "line",
    [
        "[2026-11-21 05:35:32] vm:1564:1565 [0] bootstrap.cc:114 NCCL WARN text",
        "vm:1564:1565 [0] transport/net_ib.cc:86 NCCL WARN text",
        "vm:1564:1565 [0] init.cc:9 (commAlloc) NCCL WARN text",
    ],
)
def test_warnings(line: str) -> None:
    (piece,) = said(line, True)
    assert (piece.speaker, piece.level, piece.message) == (Speaker("vm", 1564, 1565, 0), "WARN", "text")


@pytest.mark.parametrize("prefix", ["", "[rank0] ", "[default0]:", "2026-11-21T05:35:32.373430237Z "])
def test_a_hostname_that_was_taken_out(prefix: str) -> None:
    (piece,) = said(f"{prefix}:22901:22902 [0] NCCL INFO {CHANNEL}", True)
    assert (piece.speaker, piece.level, piece.message) == (Speaker("", 22901, 22902, 0), "INFO", CHANNEL)


def test_writers_that_ran_into_one_another() -> None:
    first, second = said(f"{WHO}Channel 00/0 : 0[0] -> vm:9:9 [1] NCCL INFO Using network IB", True)
    assert (first.message, first.whole) == ("Channel 00/0 : 0[0] ->", False)
    assert (second.speaker, second.message, second.whole) == (
        Speaker("vm", 9, 9, 1),
        "Using network IB",
        True,
    )


@pytest.mark.parametrize(
    "piece",
    [
        "2[2] [send] via NET/IB/0",
        "CL INFO Channel 00/0 : 0[0] -> 2[2] [send] via NET/Socket/0/Shared",
        "564:1565 [0] NCCL INFO Channel 00/0 : 0[0] -> 2[2] [se",
        "vm:15vm:1565:1565 [1] NCCL INFO Channel 00/0 : 0[0] -> 2[2] [send] via NET/IB/0",
    ],
)
def test_pieces_of_channels_are_seen(piece: str) -> None:
    assert [found.level for found in said(piece, True)][:1] == ["cut"]


@pytest.mark.parametrize(
    "line",
    [
        f"{WHO}{CHANNEL} [repeated 15x across cluster]",
        f"{WHO}{CHANNEL}\x1b[32m [repeated 15x across cluster] (Ray deduplicates logs ...)\x1b[0m",
    ],
)
def test_folded_lines(line: str) -> None:
    (piece,) = said(cleaned(line.encode()), True)
    assert piece.folded and piece.message == CHANNEL


@given(st.lists(st.binary(max_size=200), max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_read(blocks: list[bytes]) -> None:
    assert read([("x", blocks)]).verdict in ("unknown", "failed")


WORDS = (
    "NCCL INFO ",
    "Channel ",
    "00/0",
    " : ",
    "0[0]",
    " -> ",
    "9[1]",
    "[send]",
    " via NET/IB/0",
    "/GDRDMA",
    "\n",
)
MORE = (
    "vm:1:1 [0] ",
    "comm 0x1 rank 0 nranks 2 ",
    "- Init START",
    "Connected all rings",
    "[repeated 2x",
    "Trees [0] ",
)


@given(st.lists(st.sampled_from(WORDS + MORE), max_size=60))
@settings(max_examples=100, deadline=None)
def test_words_of_nccl_in_any_order_are_read_and_prove_nothing(words: list[str]) -> None:
    assert read([("x", ["".join(words).encode()])]).verdict != "gdrdma"
