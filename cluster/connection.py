"""One open line to one node: the seam at which tests put a function."""

from __future__ import annotations

import contextlib
import functools
import os
import selectors
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Protocol

from cluster.errors import CommandTimeout, ConnectionLost
from cluster.steps import Argv, Result

OnLine = Callable[[str], None]
Stdin = str | Iterable[str]


class Connection(Protocol):
    """What the rest of the program knows about a node.

    Every method raises ConnectionLost (reason as text) when the line breaks, and `run` raises
    CommandTimeout when the command has not ended after `timeout` seconds (None: no limit).
    """

    def run(
        self, argv: Argv, stdin: Stdin = "", timeout: float | None = 60.0, on_line: OnLine | None = None
    ) -> Result:
        """Run a command in the home folder; with `on_line`, stdout is handed over line by line instead.

        The pieces of an iterable `stdin` are fed as they come, by a thread of their own. The pipe closes
        when they end, or when the command has; what a command does not read is no error.
        """

    def put(self, path: str, content: str, mode: int) -> None:
        """Write a file whole or not at all, `path` relative to the home folder."""

    def close(self) -> None:
        """End the line and whatever waits on it; safe to call twice and from another thread."""


class LocalConnection:
    """This machine, without SSH."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = threading.Event()

    def run(
        self, argv: Argv, stdin: Stdin = "", timeout: float | None = 60.0, on_line: OnLine | None = None
    ) -> Result:
        try:
            process = self._start(argv)
        except OSError as error:
            return Result(127, "", f"{argv[0]}: {error.strerror}")
        try:
            result = _talk(process, stdin, timeout, on_line)
            if self._closed.is_set():
                raise ConnectionLost("interrupted")
            return result
        finally:
            self._running.discard(process)
            _kill(process)
            _close_pipes(process)

    def _start(self, argv: Argv) -> subprocess.Popen[bytes]:
        if self._closed.is_set():
            raise ConnectionLost("interrupted")
        process = subprocess.Popen(
            argv,
            cwd=Path.home(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for clusterctl, which then ends its commands itself
        )
        self._running.add(process)
        return process

    def put(self, path: str, content: str, mode: int) -> None:
        target = Path.home() / path
        partial = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
                file.write(content)
            partial.chmod(mode)
            partial.replace(target)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise ConnectionLost(f"cannot write {target}: {error.strerror}") from error

    def close(self) -> None:
        self._closed.set()
        for process in tuple(self._running):
            _kill(process)  # whoever reads from it sees its end


def _talk(
    process: subprocess.Popen[bytes], stdin: Stdin, timeout: float | None, on_line: OnLine | None
) -> Result:
    """Feed stdin, read both streams until both end, and wait for the exit code."""
    assert process.stdin and process.stdout and process.stderr
    deadline = None if timeout is None else time.monotonic() + timeout
    feed_from_thread(stdin, functools.partial(_write, process.stdin), process.stdin.close)
    out, err = LineSink(on_line), LineSink(None)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, out)
        selector.register(process.stderr, selectors.EVENT_READ, err)
        while selector.get_map():
            ready = selector.select(remaining(deadline, process.args, timeout))
            for key, _ in ready:
                chunk = os.read(key.fd, 65536)
                key.data.feed(chunk)
                if not chunk:
                    selector.unregister(key.fileobj)
    try:
        code = process.wait(remaining(deadline, process.args, timeout))
    except subprocess.TimeoutExpired:
        remaining(0.0, process.args, timeout)
        raise
    return Result(code, out.text(), err.text())


def remaining(deadline: float | None, argv: object, timeout: float | None) -> float | None:
    """Seconds left until a monotonic deadline; raises CommandTimeout when there are none."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        words = shlex.join(argv) if isinstance(argv, tuple | list) else str(argv)
        raise CommandTimeout(f"no end after {timeout:g} s: {words}")
    return left


def feed_from_thread(stdin: Stdin, write: Callable[[bytes], object], close: Callable[[], object]) -> None:
    """Returns at once. The thread ends with the pieces, or at the first that the pipe does not take."""
    pieces = (stdin,) if isinstance(stdin, str) else stdin

    def feed() -> None:
        for piece in pieces:
            try:
                write(piece.encode())
            except Exception:  # the command ended without reading, or the line broke, which its reader sees
                break
        with contextlib.suppress(Exception):
            close()

    threading.Thread(target=feed, daemon=True).start()


def _write(pipe: IO[bytes], content: bytes) -> None:
    pipe.write(content)
    pipe.flush()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            with contextlib.suppress(OSError):  # what stdin still held, for a process that is gone
                pipe.close()


class LineSink:
    """Collects bytes as text; with `on_line`, hands over whole lines and keeps none."""

    def __init__(self, on_line: OnLine | None) -> None:
        self._on_line, self._bytes = on_line, bytearray()

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes; an empty chunk is the end and hands over a last unfinished line."""
        self._bytes += chunk
        if self._on_line is None:
            return
        *lines, rest = bytes(self._bytes).split(b"\n")
        self._bytes = bytearray(rest)
        for line in lines:
            self._on_line(line.decode(errors="replace"))
        if not chunk and rest:
            self._bytes.clear()
            self._on_line(rest.decode(errors="replace"))

    def text(self) -> str:
        """What was collected, decoded as UTF-8 with replacement."""
        return bytes(self._bytes).decode(errors="replace")
