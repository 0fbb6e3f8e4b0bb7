"""Lines of several logs, in time order."""

from __future__ import annotations

import pytest

from cluster.log_lines import LogLine, excerpt, merge, read_lines, since, with_nine_decimals


@pytest.mark.parametrize(
    ("line", "time", "text"),
    [
        ("2026-11-21T05:24:26.654017123Z INFO a", "2026-11-21T05:24:26.654017123", "INFO a"),
        ("2026-11-21T05:24:26Z a", "2026-11-21T05:24:26.000000000", "a"),
        ("2026-11-21T05:24:26.5+00:00 a", "2026-11-21T05:24:26.500000000", "a"),
        ("2026-11-21T05:24:26.5Z", "2026-11-21T05:24:26.500000000", ""),
        ("2026-11-21T05:24:26.5Z  indented", "2026-11-21T05:24:26.500000000", " indented"),
        ("Error: No such container: x", "", "Error: No such container: x"),
    ],
)
def test_a_line(line: str, time: str, text: str) -> None:
    assert list(read_lines("gpu-01", "ray", [line])) == [LogLine(time, "gpu-01", "ray", text)]


def test_a_line_without_a_time_takes_that_of_the_one_before_it() -> None:
    lines = read_lines("n", "ray", ["2026-11-21T05:24:26Z a", "b"])
    assert [line.time for line in lines] == ["2026-11-21T05:24:26.000000000"] * 2


def test_streams_are_merged_by_time_and_each_keeps_its_order() -> None:
    def stream(node: str, *lines: str) -> list[LogLine]:
        return list(read_lines(node, "ray", [f"2026-11-21T05:24:{line}" for line in lines]))

    first = stream("a", "01.5Z one", "03Z three", "03Z still three")
    second = stream("b", "02Z two", "03.000000001Z four")
    merged = [line.text for line in merge([first, second])]
    assert merged == ["one", "two", "three", "still three", "four"]


def test_fractions_are_cut_at_nine_decimals() -> None:
    assert with_nine_decimals("x.1234567891") == "x.123456789"


@pytest.mark.parametrize(
    ("text", "understood"),
    [
        ("90", "90"),
        ("90s", "90"),
        ("10m", "600"),
        ("2h", "7200"),
        ("1d", "86400"),
        ("2026-11-21T05:24:26Z", "2026-11-21T05:24:26Z"),
        ("2026-11-21", None),
        ("yesterday", None),
        ("-5m", None),
        ("", None),
    ],
)
def test_since(text: str, understood: str | None) -> None:
    assert since(text) == understood


def test_an_excerpt_names_each_error_once_and_has_no_frames() -> None:
    log = """\
2026-11-21T07:20:36Z (EngineCore pid=1) ERROR 11-21 07:20:36 [core.py:9] Traceback (most recent call last):
2026-11-21T07:20:36Z (EngineCore pid=1) ERROR 11-21 07:20:36 [core.py:9]   File "ray/worker.py", line 2
2026-11-21T07:20:36Z (EngineCore pid=1) ERROR 11-21 07:20:36 [core.py:9]     raise RuntimeError(
2026-11-21T07:20:36Z (EngineCore pid=1) ERROR 11-21 07:20:36 [core.py:9] RuntimeError: No node info found
2026-11-21T07:20:36Z Process EngineCore:
2026-11-21T07:20:36Z   File "x.py", line 586, in y
2026-11-21T07:20:36Z            ^^^^^^^
2026-11-21T07:20:36Z RuntimeError: No node info found
2026-11-21T07:20:36Z RuntimeError: Engine core initialization failed. See root cause above.
"""
    lines = excerpt(log).splitlines()
    assert lines[0].endswith("[core.py:9] RuntimeError: No node info found")
    assert lines[1] == "RuntimeError: Engine core initialization failed. See root cause above."
    assert not any("File " in line or "^^^" in line for line in lines)
