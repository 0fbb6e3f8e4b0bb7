"""on_node/collectives.py under way, as many "nodes" of it on loopback as a test wants."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from cluster import on_node

PROGRAM = Path(on_node.__file__).with_name("collectives.py")


def free_port() -> int:
    """Free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Node:
    """The program under way for one node; its folder for temporary files is the test's own."""

    def __init__(self, folder: Path, port: int, node_rank: int, gpus: str, *more: str, **env: str) -> None:
        self.folder = folder / f"node{node_rank}"
        self.folder.mkdir()
        words = ("--head", "127.0.0.1", "--port", str(port), "--node-rank", str(node_rank), "--gpus", gpus)
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *words, "--backend", "gloo", "--stride", "1", *more],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "TMPDIR": str(self.folder), **env},
        )

    def ranks(self) -> list[int]:
        """The process ids of its ranks."""
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(word) for word in text.split()]

    def end(self, timeout: float = 60.0) -> dict[str, Any]:
        """Its answer; nothing of it is left."""
        ranks = self.ranks() if self.process.poll() is None else []
        out, err = self.process.communicate(timeout=timeout)
        assert (self.process.returncode, err) == (0, "")
        assert list(self.folder.iterdir()) == []
        assert [pid for pid in ranks if Path(f"/proc/{pid}").exists()] == []
        answer: dict[str, Any] = json.loads(out)
        return answer


def states(*answers: dict[str, Any]) -> list[tuple[int, str]]:
    """(rank, how it ended) of all."""
    return [(rank["rank"], rank["state"]) for answer in answers for rank in answer["ranks"]]
