"""A few words of the container engine's HTTP API, spoken over its socket without entering the host.

/proc/PID/root is the host's root file system as its init sees it: its private /run is reachable from outside.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlencode

from cluster.errors import LabError


class EngineConnection(http.client.HTTPConnection):
    def __init__(self, init_pid: int, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = f"/proc/{init_pid}/root/run/docker.sock"

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def answers(init_pid: int) -> bool:
    try:
        return _request(init_pid, "GET", "/_ping", timeout=2) == b"OK"
    except (OSError, http.client.HTTPException, LabError):
        return False


def containers(init_pid: int) -> int | None:
    """How many there are, stopped ones too; None if the engine does not answer."""
    try:
        found: list[Any] = json.loads(_request(init_pid, "GET", "/containers/json?all=1", timeout=5))
    except (OSError, http.client.HTTPException, LabError, ValueError):
        return None
    return len(found)


def import_tar(init_pid: int, tar: bytes, image: str, changes: tuple[str, ...]) -> None:
    """`docker import`; an error may come inside an answer that began as a success."""
    repository, _, tag = image.rpartition(":")
    query = urlencode(
        [("fromSrc", "-"), ("repo", repository), ("tag", tag), *(("changes", c) for c in changes)]
    )
    said = _request(init_pid, "POST", f"/images/create?{query}", tar)
    if b'"error"' in said:
        raise LabError(f"importing the image {image} failed: {said.decode(errors='replace').strip()}")


def _request(init_pid: int, method: str, path: str, body: bytes | None = None, timeout: float = 60) -> bytes:
    connection = EngineConnection(init_pid, timeout)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    if answer.status >= 400:
        raise LabError(f"the engine answered {answer.status}: {content.decode(errors='replace').strip()}")
    return content
