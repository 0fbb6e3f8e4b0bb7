"""The evidence of a failure, kept by a real shell: a file a log, no secret in any, the old ones gone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from samples import plan

from cluster import evidence, records
from cluster.plan import Plan
from cluster.steps import Result, Run

DOCKER = """\
#!/bin/sh
case "$*" in
  *logs*demo-ray*) echo "2026-11-21T05:24:25.000000000Z ray is up" ;;
  *logs*demo-serve*)
    echo "2026-11-21T05:24:26.000000000Z token=hf_verysecret and again hf_verysecret"
    echo "2026-11-21T05:24:27.000000000Z ValueError: broken" >&2
    ;;
  *"image inspect"*) echo '["sha256:1"]' ;;
  *"inspect"*) echo "/clusterctl-demo-serve exited 1 false" ;;
  *) exit 1 ;;
esac
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a docker that has a dead server."""
    folder = tmp_path / "home"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)
    (folder / ".clusterctl/demo/gpu-01").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return folder


def run(home: Path, *argv: str) -> Result:
    done = subprocess.run(argv, cwd=home, capture_output=True, text=True, check=True)
    return Result(done.returncode, done.stdout, done.stderr)


def keep(home: Path, plan: Plan, when: str) -> None:
    (step,) = evidence.steps(plan, ("gpu-01",), 3, when)
    assert isinstance(step, Run)
    run(home, *step.argv)


def folder(home: Path) -> Path:
    return home / records.folder("demo", "gpu-01") / "generations/3/evidence"


def test_each_question_is_a_file_for_the_owner_alone(home: Path) -> None:
    keep(home, plan(), "20261121T052426Z")
    kept = folder(home) / "20261121T052426Z"
    names = {path.name for path in kept.iterdir()}
    assert {"log_ray.log", "log_serve.log", "state.log", "kernel.log", "session.log"} <= names
    assert "ValueError: broken" in (kept / "log_serve.log").read_text()
    assert "clusterctl-demo-serve exited" in (kept / "state.log").read_text()
    assert {path.stat().st_mode & 0o077 for path in (kept, *kept.iterdir())} == {0}


def test_what_was_kept_can_be_read_again(home: Path) -> None:
    keep(home, plan(), "20261121T052426Z")
    keep(home, plan(), "20261121T052526Z")
    read = records.parse(run(home, *evidence.read("demo", "gpu-01", 3)))
    assert [(line.time, line.node, line.role, line.text) for line in evidence.lines("gpu-01", read)] == [
        ("2026-11-21T05:24:25.000000000", "gpu-01", "ray", "ray is up"),
        ("2026-11-21T05:24:26.000000000", "gpu-01", "serve", "token=hf_verysecret and again hf_verysecret"),
        ("2026-11-21T05:24:27.000000000", "gpu-01", "serve", "ValueError: broken"),
    ]
    assert list(evidence.lines("gpu-01", {})) == []


def test_secrets_are_blotted_out(home: Path) -> None:
    secrets = home / ".clusterctl/demo/gpu-01/secrets.env"
    secrets.write_text("HF_TOKEN=hf_verysecret\nSHORT=abc\nEMPTY=\nODD=a=b\\c&[x]*\n")
    keep(home, plan(), "20261121T052426Z")
    texts = [path.read_text() for path in folder(home).rglob("*.log")]
    assert not any("verysecret" in text for text in texts)
    assert any("token=*** and again ***" in text for text in texts)


def test_only_the_last_ones_stay(home: Path) -> None:
    whens = [f"2026112{day}T000000Z" for day in range(evidence.KEPT + 2)]
    for when in whens:
        keep(home, plan(), when)
    assert sorted(path.name for path in folder(home).iterdir()) == whens[2:]


def test_a_place_that_cannot_be_written_is_no_failure(home: Path) -> None:
    (home / ".local").write_text("not a folder")
    keep(home, plan(), "20261121T052426Z")
