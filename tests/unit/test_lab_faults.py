"""Faults of a lab by name, and the values that they take."""

from __future__ import annotations

import pytest

from cluster.cli_lab import FAULTS
from cluster.errors import UsageError
from cluster.lab import faults


def test_the_command_line_offers_what_there_is() -> None:
    assert sorted(FAULTS) == sorted(faults.KINDS)


def test_what_is_off_or_cut_off_is_mended_first() -> None:
    """The rest is asked for inside of the host."""
    assert list(faults.KINDS)[:3] == ["power-off", "link-down", "partition"]
    assert list(faults.KINDS).index("freeze") < list(faults.KINDS).index("kill")


@pytest.mark.parametrize(
    ("text", "seconds"), [("100ms", 0.1), ("2s", 2.0), ("1.5s", 1.5), ("500us", 0.0005), ("0ms", 0.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert faults.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(("text", "share"), [("10%", 0.1), ("0.5%", 0.005), ("100%", 1.0)])
def test_shares(text: str, share: float) -> None:
    assert faults.parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "words"), [("+300s", "+300 seconds"), ("-5m", "-5 minutes"), ("+1d", "+1 days")]
)
def test_skews(text: str, words: str) -> None:
    assert faults.parse_skew(text) == words


@pytest.mark.parametrize(
    "parse", [faults.parse_duration, faults.parse_share, faults.parse_rate, faults.parse_skew]
)
@pytest.mark.parametrize(
    "text", ["", "10", "-1ms", "ten", "1 s", "10%%", "1;reboot", "1mbit root netem", "0mbit"]
)
def test_what_is_none_is_said(parse: object, text: str) -> None:
    assert callable(parse)
    with pytest.raises(UsageError, match="such as"):
        parse(text)
