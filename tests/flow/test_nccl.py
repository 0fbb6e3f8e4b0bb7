"""`clusterctl nccl`: files in, a verdict, tables and an exit code out."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fakes import Outcome

from cluster import cli
from tests.nccllog import Run, processes
from tests.ncclnoise import Way, folded, pieces, text_of, written

ROOT = Path(__file__).parents[2]
Nccl = Callable[..., Outcome]
TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
TEXTS, NUMBERS = {"type": "array", "items": TEXT}, {"type": "array", "items": NUMBER}
MAYBE_TEXT = {"type": ["string", "null"]}


def objects(**properties: Any) -> dict[str, Any]:
    return {
        "type": "array",
        "items": {"type": "object", "properties": properties, "required": list(properties)},
    }


SCHEMA = {
    "type": "object",
    "required": [
        *("ok", "require", "verdict", "reason", "link_layer", "network", "nccl_version"),
        *("ranks", "nodes", "edges", "node_pairs", "problems", "unfinished"),
    ],
    "properties": {
        "ok": {"type": "boolean"},
        "verdict": TEXT,
        "reason": TEXT,
        "link_layer": {"enum": ["InfiniBand", "RoCE", None]},
        "network": MAYBE_TEXT,
        "nccl_version": MAYBE_TEXT,
        "nodes": {"type": "array"},
        "edges": objects(
            src=NUMBER,
            dst=NUMBER,
            transport=TEXT,
            device=MAYBE_TEXT,
            gdrdma={"type": "boolean"},
            channels=NUMBERS,
        ),
        "problems": objects(id=TEXT, evidence=TEXT, remedy=TEXT),
    },
}


@pytest.fixture
def nccl(capsys: pytest.CaptureFixture[str]) -> Nccl:
    def call(*arguments: str | Path) -> Outcome:
        code = cli.main(["nccl", *map(str, arguments)])
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call


BEHIND_PREFIXES = Way("vllm-ray")


def write(folder: Path, run: Run, way: Way = BEHIND_PREFIXES) -> Path:
    file = folder / "ray.log"
    file.write_bytes(text_of(pieces(run, way)))
    return file


@pytest.mark.parametrize(
    ("run", "verdict", "said"),
    [
        (Run(), "gdrdma", "over InfiniBand with GPUDirect RDMA (mlx5_0, mlx5_1)"),
        (Run(network="RoCE"), "gdrdma", "over RoCE with GPUDirect RDMA (rocep1s0, rocep2s0)"),
        (Run(gdr=False), "ib", "over InfiniBand (mlx5_0, mlx5_1) without GPUDirect RDMA"),
        (Run(network="RoCE", gdr=False), "roce", "over RoCE (rocep1s0, rocep2s0) without GPUDirect RDMA"),
        (Run(network="Socket"), "socket", "over TCP (eth0), not InfiniBand"),
        (Run(network="OFI"), "plugin", "over the plugin AWS Libfabric"),
        (
            Run(without_gdr=frozenset({(3, 0, 0)})),
            "mixed",
            "some channels between nodes are better than others",
        ),
        (Run(nodes=1), "intra-node", "no communicator goes over more than one node"),
        (Run(stopped=frozenset({1})), "incomplete", "rank 1 (gpu-01) of communicator"),
        (Run(failed=1), "failed", "NCCL failed: "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_first_line_is_the_verdict(nccl: Nccl, tmp_path: Path, run: Run, verdict: str, said: str) -> None:
    outcome = nccl(write(tmp_path, run))
    assert outcome.lines[0].startswith(f"{verdict}: ")
    assert said in outcome.lines[0]
    assert outcome.code == (1 if verdict in ("incomplete", "failed") else 0)


def test_the_tables(nccl: Nccl, tmp_path: Path) -> None:
    outcome = nccl(write(tmp_path, Run(nodes=3, network="Socket", shm=True)))
    tables = [line.split() for line in outcome.lines]
    assert "NCCL 2.28.9, 6 ranks, 3 nodes, 1 communicator, network Socket" in outcome.out
    assert ["gpu-02", "2-3", "eth0", "none", "listed"] in tables
    assert ["gpu-01", "gpu-02", "NET/Socket", "eth0", "off"] in tables
    assert ["gpu-02", "Socket", "SHM", "Socket"] in tables  # node by node
    assert ["0", "gpu-01", "-", "SHM"] in [line[:4] for line in tables]  # rank by rank


def test_why_it_is_not_better(nccl: Nccl, tmp_path: Path) -> None:
    outcome = nccl(write(tmp_path, Run(network="Socket")))
    reasons = outcome.out.partition("likely reasons, the likeliest first:\n")[2].splitlines()
    assert reasons[0].startswith("[")
    assert "NET/IB : No device found" in reasons[0]
    assert reasons[1].startswith("  ")


@pytest.mark.parametrize(
    ("run", "require", "code"),
    [
        (Run(), "gdrdma", 0),
        (Run(), "ib", 0),
        (Run(), "roce", 1),
        (Run(network="RoCE"), "roce", 0),
        (Run(gdr=False), "ib", 0),
        (Run(gdr=False), "gdrdma", 1),
        (Run(network="Socket"), "socket", 0),
        (Run(network="Socket"), "ib", 1),
        (Run(nodes=1), "any", 0),
        (Run(nodes=1), "socket", 1),
    ],
)
def test_what_is_required(nccl: Nccl, tmp_path: Path, run: Run, require: str, code: int) -> None:
    outcome = nccl(write(tmp_path, run), "--require", require)
    assert outcome.code == code
    assert (f"--require {require} does not hold" in outcome.err) == bool(code)
    assert len(outcome.err.splitlines()) == code


def test_who_did_not_finish(nccl: Nccl, tmp_path: Path) -> None:
    outcome = nccl(write(tmp_path, Run(nodes=2, gpus=4, stopped=frozenset({5, 6, 7}))))
    assert ["0x5afe0000", "5-7", "gpu-02", "began"] in [line.split()[:4] for line in outcome.lines]


def test_a_warning_is_told_once(nccl: Nccl, tmp_path: Path) -> None:
    outcome = nccl(write(tmp_path, Run(failed=1)))
    assert outcome.lines[0].count("ibv_modify_qp") == 1
    assert "NCCL warned" not in outcome.out


def test_json(nccl: Nccl, tmp_path: Path) -> None:
    outcome = nccl(write(tmp_path, Run(network="Socket")), "--json", "--require", "ib")
    (said,) = outcome.events
    jsonschema.validate(said, SCHEMA)
    assert outcome.code == 1
    assert (said["ok"], said["require"], said["verdict"]) == (False, "ib", "socket")
    assert said["nccl_version"] == "2.28.9"
    assert {"src": 1, "dst": 2, "transport": "NET/Socket", "device": "eth0", "gdrdma": False}.items() <= next(
        edge for edge in said["edges"] if (edge["src"], edge["dst"]) == (1, 2)
    ).items()


@pytest.mark.parametrize(
    ("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)]
)
def test_packed(nccl: Nccl, tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    file = write(tmp_path, Run())
    packed = tmp_path / f"packed{suffix}"
    packed.write_bytes(pack(file.read_bytes()))
    assert nccl(packed).out == nccl(file).out


def test_a_file_a_process(nccl: Nccl, tmp_path: Path) -> None:
    run = Run(groups=("world", "tensor", "messages"))
    files = []
    for process in processes(run):
        files.append(tmp_path / f"nccl.{process.host}.{process.pid}")
        files[-1].write_bytes(text_of(written(run, process, Way())))
    assert nccl(*files).out == nccl(write(tmp_path, run, Way())).out
    assert nccl(*files, "--require", "gdrdma").code == 0
    assert nccl(*files[:-1], "--require", "gdrdma").code == 1  # one is missing: no proof


def test_stdin(nccl: Nccl, monkeypatch: pytest.MonkeyPatch) -> None:
    text = text_of(pieces(Run(), Way("ray-colour")))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert nccl("-", "--require", "gdrdma").code == 0


def test_folded_by_ray(nccl: Nccl, tmp_path: Path) -> None:
    file = tmp_path / "ray.log"
    file.write_bytes(text_of(folded(Run(nodes=3), Way("ray-colour"))))
    outcome = nccl(file, "--require", "gdrdma")
    assert outcome.code == 1
    assert outcome.lines[0].startswith("unknown: ")
    assert "RAY_DEDUP_LOGS=0" in outcome.out


def test_a_log_without_nccl(nccl: Nccl, tmp_path: Path) -> None:
    file = tmp_path / "vllm.log"
    file.write_text("INFO 11-21 06:15:17 [api_server.py:345] started\n")
    outcome = nccl(file)
    assert outcome.code == 1
    assert outcome.lines[0].startswith("unknown: ")
    assert "NCCL_DEBUG=INFO" in outcome.out
    assert "--require any does not hold" in outcome.err


def test_an_empty_log(nccl: Nccl, tmp_path: Path) -> None:
    (tmp_path / "empty.log").touch()
    assert nccl(tmp_path / "empty.log").code == 1


def test_no_file(nccl: Nccl, tmp_path: Path) -> None:
    outcome = nccl(tmp_path / "nothing.log")
    assert (outcome.code, outcome.out) == (2, "")
    assert "no such file" in outcome.err


def test_a_folder(nccl: Nccl, tmp_path: Path) -> None:
    outcome = nccl(tmp_path)
    assert outcome.code == 2
    assert "is a folder: name the files in it" in outcome.err


def test_no_argument(nccl: Nccl) -> None:
    outcome = nccl()
    assert outcome.code == 2
    assert "nccl needs log files to read" in outcome.err


def test_a_file_that_is_no_text(nccl: Nccl, tmp_path: Path) -> None:
    file = tmp_path / "core"
    file.write_bytes(bytes(range(256)) * 100)
    outcome = nccl(file)
    assert outcome.code == 2
    assert "is not text" in outcome.err


def test_a_gzip_that_is_broken_in_the_middle(nccl: Nccl, tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(text_of(pieces(Run(nodes=4)))))
    packed[200:260] = bytes(60)
    (tmp_path / "log.gz").write_bytes(packed)
    outcome = nccl(tmp_path / "log.gz")
    assert outcome.code == 2
    assert "log.gz" in outcome.err


def test_a_log_cannot_write_to_the_terminal(nccl: Nccl, tmp_path: Path) -> None:
    run = Run(failed=1)
    text = text_of(pieces(run, Way())).replace(b"timed out", b"\x1b]0;owned\x07\x1b[2J timed out")
    (tmp_path / "log").write_bytes(text)
    outcome = nccl(tmp_path / "log")
    assert "\x1b" not in outcome.out + outcome.err
    assert "\x07" not in outcome.out + outcome.err


def on_a_terminal(columns: int, *arguments: str, **environment: str) -> str:
    """What a person sees: the program with a terminal of that width for its output."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", "nccl", *arguments],
        stdout=slave,
        stderr=slave,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color", **environment},
    ) as process:
        os.close(slave)
        parts = []
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # Linux: the other end is closed
                break
            if not part:
                break
            parts.append(part)
        process.wait()
    os.close(master)
    return b"".join(parts).decode()


@pytest.mark.parametrize(("network", "colour"), [("IB", "\x1b[1;32m"), ("Socket", "\x1b[1;31m")])
def test_the_verdict_has_a_colour_on_a_terminal(tmp_path: Path, network: Any, colour: str) -> None:
    file = write(tmp_path, replace(Run(), network=network))
    assert on_a_terminal(100, str(file)).startswith(colour)
    assert "\x1b" not in on_a_terminal(100, str(file), NO_COLOR="1").replace("\x1b[1m", "").replace(
        "\x1b[0m", ""
    )


def test_no_colour_in_a_pipe(nccl: Nccl, tmp_path: Path) -> None:
    assert "\x1b" not in nccl(write(tmp_path, Run(network="Socket"))).out
