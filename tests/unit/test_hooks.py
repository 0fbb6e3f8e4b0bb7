"""Hooks: the user's own commands, in a real shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import HookError
from cluster.hooks import run_after, run_before

VARIABLES = {"CLUSTERCTL_COMMAND": "up"}


def test_they_run_in_order_with_the_variables(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "said"
    run_before("before_up", (f"echo $CLUSTERCTL_COMMAND > {file}", f"echo two | tee -a {file}"), VARIABLES)
    assert file.read_text() == "up\ntwo\n"
    out, err = capfd.readouterr()
    assert (out, err) == ("", "two\n")  # stdout belongs to clusterctl


def test_the_first_that_fails_ends_it_before_anything_was_changed(tmp_path: Path) -> None:
    with pytest.raises(HookError, match=r"hooks\.before_up: `exit 3` exited 3; nothing was changed") as error:
        run_before("before_up", ("exit 3", f"touch {tmp_path}/never"), VARIABLES)
    assert error.value.exit_code == 5
    assert not (tmp_path / "never").exists()


def test_afterwards_all_run_whatever_one_does(tmp_path: Path) -> None:
    said = run_after("after_up", ("exit 3", f"touch {tmp_path}/ran"), VARIABLES)
    assert said == ["hooks.after_up: `exit 3` exited 3"]
    assert (tmp_path / "ran").exists()


def test_one_that_is_killed_says_by_which_signal() -> None:
    assert run_after("after_up", ("kill -9 $$",), {}) == [
        "hooks.after_up: `kill -9 $$` was killed by signal 9"
    ]


def test_one_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.hooks.LONGEST", 0.05)
    assert run_after("after_up", ("exec tail -f /dev/null",), {}) == [
        "hooks.after_up: `exec tail -f /dev/null` had not ended after 0.05 s and was killed"
    ]
