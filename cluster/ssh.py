"""A Connection over SSH. With ssh_open.py the only module that knows paramiko, loaded with the first line."""

from __future__ import annotations

import contextlib
import os
import posixpath
import shlex
import threading
import time
from typing import TYPE_CHECKING, Any

from cluster.connection import LineSink, OnLine, Stdin, feed_from_thread, remaining
from cluster.errors import CommandTimeout, ConnectionLost
from cluster.ssh_open import DEAD_AFTER, Jumps, connect, renamed
from cluster.ssh_target import Target
from cluster.steps import Argv, Result

if TYPE_CHECKING:
    import paramiko


class SSHConnection:
    """One SSH connection, opened in the constructor, with one SFTP session for all files.

    Raises ConnectionLost with the reason and what to do about it.
    """

    def __init__(self, target: Target, jumps: Jumps) -> None:
        self._target = target
        self._client = connect(target, jumps)
        self._sftp: paramiko.SFTPClient | None = None

    def run(
        self, argv: Argv, stdin: Stdin = "", timeout: float | None = 60.0, on_line: OnLine | None = None
    ) -> Result:
        with renamed(self._target):
            transport = self._client.get_transport()
            if transport is None or not self._is_open():
                raise ConnectionLost("the connection is closed")
            channel = transport.open_session(timeout=DEAD_AFTER)
            with contextlib.closing(channel):
                channel.exec_command(shlex.join(argv))
                return _talk(channel, argv, stdin, timeout, on_line)

    def put(self, path: str, content: str, mode: int) -> None:
        with renamed(self._target):
            sftp = self._open_sftp()
            try:
                _write(sftp, path, content, mode)
            except OSError as error:
                if not self._is_open():
                    raise
                raise ConnectionLost(f"cannot write {path} on {self._target}: {error}") from error

    def _open_sftp(self) -> paramiko.SFTPClient:
        if self._sftp is None:
            self._sftp = self._client.open_sftp()
            # The channel's own limit, or a put on a dead line would wait for ever.
            self._sftp.get_channel().settimeout(2 * DEAD_AFTER)  # type: ignore[union-attr]
        return self._sftp

    def _is_open(self) -> bool:
        transport = self._client.get_transport()
        return transport is not None and transport.is_active()

    def close(self) -> None:
        self._client.close()


def _write(sftp: paramiko.SFTPClient, path: str, content: str, mode: int) -> None:
    """Under another name first: a reader sees the old file or the new one, and none that is half there."""
    folder, name = posixpath.split(path)
    _make_folders(sftp, folder)
    partial = posixpath.join(folder, f".{name}.{os.getpid()}.part")
    with sftp.open(partial, "w") as file:
        file.chmod(mode)  # before there is anything in it
        file.write(content.encode())
    sftp.posix_rename(partial, path)


def _make_folders(sftp: paramiko.SFTPClient, folder: str) -> None:
    made = ""
    for part in filter(None, folder.split("/")):
        made = posixpath.join(made, part)
        try:
            sftp.stat(made)
        except FileNotFoundError:
            sftp.mkdir(made, 0o700)


def _talk(
    channel: paramiko.Channel, argv: Argv, stdin: Stdin, timeout: float | None, on_line: OnLine | None
) -> Result:
    """Read both streams at once (either could fill its window), until both end and the exit code came."""
    deadline = None if timeout is None else time.monotonic() + timeout
    out, err = LineSink(on_line), LineSink(None)
    failures: list[BaseException] = []

    def drain_stderr() -> None:
        try:
            _drain(channel, channel.recv_stderr, err, argv, deadline, timeout)
        except Exception as error:  # carried over to the thread that asked
            failures.append(error)

    reader = threading.Thread(target=drain_stderr, daemon=True)
    reader.start()
    feed_from_thread(stdin, channel.sendall, channel.shutdown_write)
    _drain(channel, channel.recv, out, argv, deadline, timeout)
    reader.join()
    if failures:
        raise failures[0]
    if not channel.status_event.wait(remaining(deadline, argv, timeout)) or channel.exit_status == -1:
        raise ConnectionLost("the connection broke while a command ran")
    return Result(channel.exit_status, out.text(), err.text())


def _drain(
    channel: paramiko.Channel,
    receive: Any,
    sink: LineSink,
    argv: Argv,
    deadline: float | None,
    timeout: float | None,
) -> None:
    while True:
        channel.settimeout(remaining(deadline, argv, timeout))
        try:
            chunk = receive(65536)
        except TimeoutError:
            raise CommandTimeout(f"no end after {timeout:g} s: {shlex.join(argv)}") from None
        sink.feed(chunk)
        if not chunk:
            return
