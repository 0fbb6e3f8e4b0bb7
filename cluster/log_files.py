"""Log files as lines of text, whatever packed them; and the nodes that their names tell."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

from cluster.errors import UsageError

Unpacked: TypeAlias = "io.BufferedReader[Any] | gzip.GzipFile | lzma.LZMAFile | bz2.BZ2File"

STDIN = "-"
LARGEST_IN_ARCHIVE = 50_000_000
BEGINNING = 8_192
BLOCK = 1 << 20
SUFFIXES = {".gz", ".xz", ".bz2", ".log", ".txt", ".out", ".err"}
# NODE.PROGRAM.log: what the last part of a file's name may be, where it is not the end of a node's.
PROGRAMS = {
    *("ray", "raylet", "raylet_out", "raylet_err", "gcs_server", "gcs_server_out", "gcs_server_err"),
    *("serve", "vllm", "docker", "podman", "dmesg", "kernel", "syslog", "journal", "ssh", "sshd", "nccl"),
    *("nvidia-smi", "clusterctl"),
}
GZIP, XZ, BZIP2 = b"\x1f\x8b", b"\xfd7zXZ\x00", b"BZh"
NOT_TEXT = (b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"\xff\xfe", b"\xfe\xff")  # zip, zstd, UTF-16
# Colours, page feeds and the NULs that log rotation leaves at the beginning are in text too.
IN_TEXT = frozenset(b"\t\n\r\f\b\a\v\x1b")
MOST_CONTROL = 0.05


def check_files(names: Iterable[str]) -> None:
    """Raises UsageError for what cannot be a log: nothing there, or a folder."""
    for name in names:
        if name != STDIN and Path(name).is_dir():
            raise UsageError(f"{name}: is a folder: name the files in it")
        if name != STDIN and not Path(name).exists():
            raise UsageError(f"{name}: no such file")


def is_read_once(name: str) -> bool:
    """Whether it is gone when it has been read: stdin, a pipe."""
    return name == STDIN or not Path(name).is_file()


def text_lines(name: str) -> Iterator[str]:
    """A log's lines, whatever bytes are in them; gzip, xz and bzip2 are unpacked. Raises UsageError."""
    with _opened(name) as file:
        for line in file:
            yield line.decode("utf-8", errors="replace").rstrip("\r\n")


def blocks(name: str) -> Iterator[bytes]:
    """A log's bytes, unpacked, in pieces of up to a mebibyte: all that comes before a cut. Raises UsageError.

    An archive that ends before its end gives what it has, as a plain file that was cut does.
    """
    with _opened(name) as file, contextlib.suppress(EOFError):
        while block := file.read1(BLOCK):
            yield block


def whole(name: str) -> str:
    """A log's text, the end of it where it is beyond all measure. Raises UsageError."""
    return "\n".join(text_lines(name))[-LARGEST_IN_ARCHIVE:]


@contextlib.contextmanager
def _opened(name: str) -> Iterator[Unpacked]:
    """A log that is text, to be read; stdin stays open. Raises UsageError, for what reading it raises too."""
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if name == STDIN else open(name, "rb") as file:
            packed: io.BufferedReader[Any] = io.BufferedReader(cast(io.RawIOBase, file), BEGINNING)
            opened = _unpacked(packed)
            if _is_binary(opened.peek(BEGINNING)[:BEGINNING]):
                raise UsageError(f"{name}: is not text; unpack it, or write it as UTF-8 first")
            yield opened
            packed.detach()
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "not a log file"
        raise UsageError(f"{name}: {reason}") from error


def _unpacked(file: io.BufferedReader[Any]) -> Unpacked:
    start = file.peek(len(XZ))
    if start.startswith(GZIP):
        return gzip.GzipFile(fileobj=file)
    if start.startswith(XZ):
        return lzma.LZMAFile(file)
    return bz2.BZ2File(file) if start.startswith(BZIP2) else file


def _is_binary(beginning: bytes) -> bool:
    sample = beginning.lstrip(b"\0")
    control = sum(byte < 32 and byte not in IN_TEXT for byte in sample)
    return sample.startswith(NOT_TEXT) or control > MOST_CONTROL * len(sample)


def sources(names: Iterable[str]) -> Mapping[str, tuple[str, str]]:
    """{name: (node, program)}: `logs/gpu-01.ray.log.gz` is Ray's of gpu-01, until a line says better.

    Where files of several folders would be of one node, the folder's name tells them apart: `A/vllm`.
    """
    found = {name: _source_of(name) for name in dict.fromkeys(names)}
    folders: dict[str, set[Path]] = {}
    for name, (node, _) in found.items():
        folders.setdefault(node, set()).add(Path(name).absolute().parent)
    return {
        name: (_with_folder(node, folders[node], name), program) for name, (node, program) in found.items()
    }


def _source_of(name: str) -> tuple[str, str]:
    path = Path(name)
    while path.suffix in SUFFIXES:
        path = path.with_suffix("")
    if name == STDIN:
        return "", "log"
    node, _, program = path.name.rpartition(".")
    return (node, program) if program in PROGRAMS and node else (path.name, "log")


def _with_folder(node: str, folders: set[Path], name: str) -> str:
    """The node, behind its folder's name, or its whole path where that is the same too."""
    if not node or len(folders) == 1:
        return node
    own = Path(name).absolute().parent
    same = Counter(folder.name for folder in folders)[own.name] > 1
    return f"{own if same else own.name}/{node}"
