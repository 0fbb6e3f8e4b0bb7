"""The wheel works outside the checkout: templates, programs for the nodes, both commands."""

from __future__ import annotations

import importlib.util
import os
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    if importlib.util.find_spec("build") and importlib.util.find_spec("hatchling"):
        argv = ["build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    else:
        argv = ["pip", "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([sys.executable, "-m", *argv], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel unpacked in it; what it depends on comes from this one."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    argv = ["-m", "pip", "--python", str(folder), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, *argv], check=True, capture_output=True)
    # A .pth file inside a folder that is added this way is not read: no editable install of the checkout.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return folder


def clusterctl(installed: Path, *words: str) -> str:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    argv = [installed / "bin" / "clusterctl", *words]
    result = subprocess.run(argv, cwd=installed, env=env, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def test_templates_and_programs_are_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    templates = {f"cluster/templates/{path.name}" for path in (ROOT / "templates").iterdir()}
    programs = {f"cluster/on_node/{path.name}" for path in (ROOT / "cluster/on_node").glob("*.*")}
    assert templates | programs <= names
    assert not [name for name in names if name.startswith(("tests/", "templates/"))]


def test_it_renders_what_the_checkout_renders(installed: Path, tmp_path: Path) -> None:
    example = ROOT / "examples" / "llama-70b-2x8.yaml"
    clusterctl(installed, "render", str(example), "-o", str(tmp_path))
    golden = ROOT / "tests/unit/golden" / example.stem
    files = [path for path in golden.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert (tmp_path / path.relative_to(golden)).read_text() == path.read_text()


def test_it_is_the_wheel_that_runs(installed: Path) -> None:
    code = "import cluster; print(cluster.__file__)"
    python = installed / "bin" / "python"
    said = subprocess.run(
        [python, "-c", code], cwd=installed, capture_output=True, text=True, check=True
    ).stdout
    assert said.startswith(str(installed))
    assert (installed / "bin" / "vllm-clusterctl").exists()
