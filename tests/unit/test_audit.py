"""The audit: what two lines on every node tell together, and what half a line does not spoil."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import records
from cluster.records.audit import FILE, NO_END, Line, acts, append

BEGAN = Line(id="a1", event="began", at="2026-11-21T03:00:00Z", who="ann@desk", command="up", epoch=4)
ENDED = BEGAN.model_copy(
    update={"event": "ended", "at": "2026-11-21T03:01:00Z", "exit_code": 0, "result": "done"}
)


def text(*lines: Line) -> str:
    return "".join(f"{line.model_dump_json()}\n" for line in lines)


def test_the_same_act_on_two_nodes_is_one() -> None:
    found, unreadable = acts({"gpu-01": text(BEGAN, ENDED), "gpu-02": text(BEGAN, ENDED)})
    assert [(act.who, act.exit_code, act.result, act.nodes) for act in found] == [
        ("ann@desk", 0, "done", ("gpu-01", "gpu-02"))
    ]
    assert not unreadable


def test_an_end_that_one_node_alone_has_counts() -> None:
    (act,), _ = acts({"gpu-01": text(BEGAN), "gpu-02": text(BEGAN, ENDED)})
    assert act.exit_code == 0


def test_a_command_that_was_killed_has_no_end() -> None:
    (act,), _ = acts({"gpu-01": text(BEGAN)})
    assert (act.exit_code, act.ended, act.result) == (None, None, NO_END)


def test_they_stand_in_order_of_time_whatever_a_node_lacks() -> None:
    later = BEGAN.model_copy(update={"id": "b2", "at": "2026-11-21T04:00:00Z", "command": "down"})
    found, _ = acts({"gpu-01": text(later), "gpu-02": text(BEGAN)})
    assert [act.command for act in found] == ["up", "down"]


@given(st.text(), st.integers(min_value=0))
def test_whatever_stands_in_the_file_it_is_counted_and_never_raises(noise: str, cut: int) -> None:
    whole = text(BEGAN, ENDED)
    found, _ = acts({"gpu-01": noise + "\n" + whole[: cut % (len(whole) + 1)]})
    assert len(found) <= 1


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def run(home: Path, line: Line) -> None:
    subprocess.run(append("demo", "gpu-01", line), cwd=home, check=True, timeout=20)


def test_what_is_appended_is_read_again_after_a_line_that_a_full_disk_cut_off(home: Path) -> None:
    awkward = BEGAN.model_copy(update={"who": 'o\'brien $HOME `id`@"x"', "result": "a\nb"})
    run(home, awkward)
    file = home / records.folder("demo", "gpu-01") / FILE
    with file.open("a") as half:
        half.write('{"id": "c3", "ev')
    run(home, ENDED)
    (act,), unreadable = acts({"gpu-01": file.read_text()})
    assert (act.who, act.exit_code) == (awkward.who, 0)
    assert unreadable == {"gpu-01": 1}
    assert file.stat().st_mode & 0o777 == 0o600
