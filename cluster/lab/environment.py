"""What a host sees of this machine, read-only: /usr, a Python environment, the model."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from cluster.errors import LabError
from cluster.lab import model
from cluster.lab.files import PATH
from cluster.lab.processes import run
from cluster.lab.spec import LabSpec

MODEL_TARGET = f"/models/{model.NAME}"
PROGRAMS = ("ip", "setsid", "nsenter", "unshare", "mount", "umount", "pivot_root", "sshd", "ssh-keygen")
ENGINE_PROGRAMS = ("dockerd", "docker")
PACKAGES = "iproute2 util-linux openssh-server docker.io"


def check_machine(spec: LabSpec) -> None:
    if sys.platform != "linux":
        raise LabError(
            "a lab needs Linux's namespaces", "Run it in a Linux virtual machine or container, as root."
        )
    if os.geteuid() != 0:
        raise LabError("a lab needs root: it makes network namespaces", "Run it with sudo.")
    wanted = (*PROGRAMS, *(ENGINE_PROGRAMS if spec.engine else ()))
    missing = [name for name in wanted if shutil.which(name, path=PATH) is None]
    if missing:
        raise LabError(f"missing programs: {', '.join(missing)}", f"On Debian: apt-get install {PACKAGES}")


def program(name: str) -> str:
    """Its full path; sshd insists on being started by it."""
    found = shutil.which(name, path=PATH)
    if found is None:
        raise LabError(f"missing program: {name}", f"On Debian: apt-get install {PACKAGES}")
    return found


def python_directories(python: Path | None) -> tuple[str, ...]:
    """The environment and the installation it was made from; the environment first."""
    if python is None:
        return _unique((sys.prefix, sys.base_prefix, _installation(Path(sys.executable))))
    executable = python / "bin/python"
    if not executable.exists():
        raise LabError(f"{python} is no Python environment: there is no bin/python in it", "--python VENV")
    asked = run((str(executable), "-I", "-c", "import sys; print(sys.prefix, sys.base_prefix, sep='\\n')"))
    return _unique((*asked.stdout.split("\n")[:2], _installation(executable)))


def model_directory(given: Path | None) -> Path | None:
    """The one that was asked for, else the one that clusterctl prepared, if it has."""
    if given is None:
        prepared = model.default_target()
        return prepared if model.is_prepared(prepared) else None
    if not (given / "config.json").is_file():
        raise LabError(f"{given} is no model: there is no config.json in it")
    return given.resolve()


def shares(directories: Iterable[str]) -> tuple[str, ...]:
    """Without those that lie below another one, parents first."""
    kept: list[str] = []
    for directory in sorted(_unique(directories), key=lambda path: (path.count("/"), path)):
        if not any(Path(directory).is_relative_to(parent) for parent in kept):
            kept.append(directory)
    return tuple(kept)


def mount(source: str, target: str | None = None) -> str:
    return f"{source}:{target or source}:ro"


def parse_mount(text: str) -> tuple[str, str]:
    source, _, target = text.partition(":")
    if not (source.startswith("/") and target.startswith("/") and ":" not in target):
        raise LabError(f"--mount {text}: expected SOURCE:TARGET, both absolute paths")
    if not Path(source).is_dir():
        raise LabError(f"--mount {text}: there is no directory {source}")
    return source, target


def _installation(executable: Path) -> str:
    """Where the interpreter really lies: a virtual environment's python may be a link to a link."""
    return str(executable.resolve().parent.parent)


def _unique(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(paths))
