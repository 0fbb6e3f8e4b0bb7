"""Where a lab is written down, before anything of it exists; so that a killed `lab up` can be taken down."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import LabError
from cluster.lab.spec import BASE, Lab, from_json, lab_directory, to_json


@contextmanager
def lock() -> Iterator[None]:
    """One `lab up` at a time chooses its addresses. A lock on a directory leaves no file behind."""
    descriptor = os.open("/run", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read(name: str, base: Path = BASE) -> Lab | None:
    directory = lab_directory(name, base)
    try:
        return from_json((directory / "state.json").read_text(), directory)
    except FileNotFoundError:
        return None


def write(lab: Lab) -> None:
    """The base lies where everybody may write: one that somebody else made could be swapped under us."""
    base = lab.directory.parent
    base.mkdir(parents=True, exist_ok=True)
    if base.is_symlink() or base.stat().st_uid != os.geteuid():
        raise LabError(f"{base} belongs to somebody else", f"Remove it: rm -r {base}")
    lab.directory.mkdir()
    part = lab.state_file.with_suffix(".part")
    part.write_text(to_json(lab))
    part.rename(lab.state_file)  # whole or not at all


def names(base: Path = BASE) -> list[str]:
    return sorted(path.parent.name for path in base.glob("*/state.json"))


def remove(name: str, base: Path = BASE) -> None:
    """The files of a lab; the state last, so that an interrupted `lab down` can be repeated."""
    directory = lab_directory(name, base)
    _check_nothing_mounted(directory)
    if (directory / "hosts").exists():
        shutil.rmtree(directory / "hosts")
    if directory.exists():
        shutil.rmtree(directory)
    if base.is_dir() and not any(base.iterdir()):
        base.rmdir()


def _check_nothing_mounted(directory: Path) -> None:
    """The hosts' mounts live and die in their own namespaces; one seen here would take /usr along."""
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    below = [path for path in mounted if Path(path).is_relative_to(directory)]
    if below:
        raise LabError(f"something is mounted at {below[0]}", f"umount {below[0]}")
