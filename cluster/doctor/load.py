"""The signatures that come with the program, and those that a user adds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path

from cluster.doctor.signature import SignatureError, Signatures, combined, parse_signatures

OWN_FOLDER = "~/.config/clusterctl/signatures"


def packaged() -> Signatures:
    """All that cluster/signatures has, in the order of the files' names."""
    folder = resources.files("cluster") / "signatures"
    files = {file.name: file for file in folder.iterdir() if file.name.endswith(".yaml")}
    texts = {name: files[name].read_text(encoding="utf-8") for name in sorted(files)}
    return combined(
        *(parse_signatures(text, f"signatures/{name}", tested=True) for name, text in texts.items())
    )


def all_signatures(folders: Iterable[Path]) -> Signatures:
    """The packaged ones, then the user's own folder, then those named; the same id again replaces.

    Raises SignatureError.
    """
    own = Path(OWN_FOLDER).expanduser()
    named = tuple(folders)
    return combined(packaged(), *(_in_folder(own) if own.is_dir() else ()), *_in_folders(named))


def _in_folders(folders: Iterable[Path]) -> Iterator[Signatures]:
    for folder in folders:
        if not folder.is_dir():
            raise SignatureError(f"--signatures {folder}: no such folder")
        yield from _in_folder(folder)


def _in_folder(folder: Path) -> Iterator[Signatures]:
    for file in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))):
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file in UTF-8"
            raise SignatureError(f"{file}: {reason}") from error
        yield parse_signatures(text, str(file))
