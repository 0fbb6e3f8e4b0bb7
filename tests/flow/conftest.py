"""A fleet in the place where lines are opened, and the command line on top of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import FakeFleet, Outcome
from samples import GOOD

from cluster import cli


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeFleet:
    """Two nodes with two GPUs each, on which nothing was ever done."""
    fake = FakeFleet(tmp_path / "inventory.yaml")
    fake.write(GOOD)
    monkeypatch.setattr("cluster.fleet.opener", fake.opener)
    return fake


@pytest.fixture
def clusterctl(fleet: FakeFleet, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`clusterctl("up", "--dry-run")` on the fleet's inventory."""

    def call(command: str, *options: str) -> Outcome:
        code = cli.main([command, str(fleet.file), *options])
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call
