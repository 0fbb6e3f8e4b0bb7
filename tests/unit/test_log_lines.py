"""Lines of several logs, in time order."""

from __future__ import annotations

import pytest

from cluster.log_lines import LogLine, merge, read_lines, with_nine_decimals


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
