"""A folder as a value: to compare it, and to have it again as it was."""

from __future__ import annotations

from pathlib import Path

Tree = dict[str, tuple[str, int]]


def tree(folder: Path) -> Tree:
    """{path: (text, mode)} of all files below; a folder ends in a slash."""
    return {
        f"{path.relative_to(folder)}{'/' if path.is_dir() else ''}": (
            "" if path.is_dir() else path.read_text(),
            path.stat().st_mode & 0o7777,
        )
        for path in sorted(folder.rglob("*"))
    }


def write_tree(folder: Path, wanted: Tree) -> None:
    there = tree(folder)
    for path in sorted(there.keys() - wanted.keys(), reverse=True):
        (folder / path).rmdir() if path.endswith("/") else (folder / path).unlink()
    for path, (text, mode) in wanted.items():
        if there.get(path) == (text, mode):
            continue
        if path.endswith("/"):
            (folder / path).mkdir(exist_ok=True)
        else:
            (folder / path).write_text(text)
        (folder / path).chmod(mode)
