"""Times out of log files, whoever wrote them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.doctor.stamps import read_log
from cluster.log_lines import LogLine, merge

AT = "2026-11-21T05:24:26.000000000"
AT_654 = "2026-11-21T05:24:26.654000000"


def read(*lines: str) -> list[LogLine]:
    return list(read_log("gpu-01", "log", lines, 2026))


@pytest.mark.parametrize(
    ("text", "time", "rest"),
    [
        ("2026-11-21T05:24:26.654Z said", AT_654, "said"),
        ("2026-11-21T07:24:26.654+02:00 said", AT_654, "said"),
        ("2026-11-21T05:24:26+0000 gpu-01 dockerd[1]: said", AT, "gpu-01 dockerd[1]: said"),
        ("2026-11-21T05:24:26,654000+00:00 NVRM: Xid", AT_654, "NVRM: Xid"),
        ("2026-11-21 05:24:26,654\tINFO node.py:1 said", AT_654, None),
        ("[2026-11-21 05:24:26,654 E 1 1] (raylet) said", AT_654, None),
        ("[2026-11-21 05:24:26] vm:1:1 [0] x.cc:1 NCCL WARN said", AT, None),
        ("(EngineCore pid=1) ERROR 11-21 05:24:26 [core.py:1] said", AT, None),
        ("[rank3]:[E1121 05:24:26.654000000 ProcessGroupNCCL.cpp:1] said", AT_654, None),
        ("[Sat Nov 21 05:24:26 2026] NVRM: Xid", AT, None),
        ("Nov 21 05:24:26 gpu-02 kernel: NVRM: Xid", AT, None),
        ("[   12.345678] NVRM: Xid", "", None),
        ("said without a time", "", None),
        ("(RayWorkerProc pid=1, ip=10.0.0.2) INFO 11-21 05:24:26 [x.py:1] another node's clock", "", None),
    ],
)
def test_a_stamp(text: str, time: str, rest: str | None) -> None:
    assert read(text) == [LogLine(time, "gpu-01", "log", text if rest is None else rest)]


def test_what_clusterctl_logs_prints_has_its_node_and_role() -> None:
    assert read("2026-11-21T05:24:26.654 gpu-02 serve INFO said") == [
        LogLine(AT_654, "gpu-02", "serve", "INFO said")
    ]
    printed = json.dumps({"time": AT_654, "node": "gpu-02", "role": "ray", "text": "said"})
    assert read(printed) == [LogLine(AT_654, "gpu-02", "ray", "said")]


def test_dockers_own_files() -> None:
    line = json.dumps({"log": "said\n", "stream": "stderr", "time": "2026-11-21T05:24:26.654Z"})
    assert read(line) == [LogLine(AT_654, "gpu-01", "log", "said")]


def test_json_that_is_none_of_these_stays_text() -> None:
    for text in ('{"a": 1}', "{broken", '{"text": 1, "time": 2}', "{}"):
        assert read(text) == [LogLine("", "gpu-01", "log", text)]


def test_a_line_without_a_time_takes_that_of_the_one_before_it_and_the_first_ones_the_next() -> None:
    times = [line.time for line in read("banner", "INFO 11-21 05:24:26 [a.py:1] a", "  traceback")]
    assert times == [AT, AT, AT]


def test_a_stamp_from_outside_beats_those_inside() -> None:
    first, second = read("2026-11-21T05:24:26Z INFO 01-01 00:00:00 [a.py:1] a", "[2020-01-01 00:00:00] b")
    assert first.time == second.time == AT


def test_a_file_keeps_its_order_and_files_are_merged_by_time() -> None:
    one = read_log("a", "log", ["[2026-11-21 05:24:26] 1", "[2026-11-21 05:24:28] 3"], 2026)
    other = read_log("b", "log", ["[2026-11-21 05:24:27] 2"], 2026)
    assert [line.text[-1] for line in merge([one, other])] == ["1", "2", "3"]


@given(st.lists(st.text(max_size=200), max_size=20))
def test_any_text_is_read(texts: list[str]) -> None:
    assert len(read(*texts)) == len(texts)


@given(
    st.from_regex(
        r"\[?[A-Z]?\d{4}-?\d\d[- ]\d\d[T ]\d\d:\d\d:\d\d[.,]?\d{0,12}(Z|\+99:99)? x", fullmatch=True
    )
)
def test_anything_like_a_stamp_is_read(text: str) -> None:
    assert len(read(text)) == 1
