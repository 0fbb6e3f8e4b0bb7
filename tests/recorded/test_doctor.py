"""Logs of real machines: nothing is wrong with the healthy ones, what is wrong with the other is named."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from cluster.doctor.diagnose import diagnose
from cluster.doctor.finding import Finding
from cluster.doctor.load import packaged
from cluster.doctor.stamps import read_log

HERE = Path(__file__).parent
HEALTHY = (
    HERE / "vllm-0.26-ray-two-nodes.log.gz",
    *(HERE / "doctor" / f"{name}.log" for name in ("p2p", "shm", "two_nodes_socket")),
)


def findings(file: Path) -> tuple[Finding, ...]:
    text = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    return diagnose(read_log(file.stem, "log", text.decode().splitlines(), 2026), packaged())


@pytest.mark.parametrize("file", HEALTHY, ids=lambda file: file.name)
def test_a_healthy_log_shows_no_failure(file: Path) -> None:
    assert [finding.id for finding in findings(file) if finding.kind != "info"] == []


def test_an_interface_that_is_not_there() -> None:
    first, *rest = findings(HERE / "doctor" / "bad_ifname.log")
    assert (first.id, first.kind, first.node) == ("nccl-no-iface", "root", "vm")
    assert "no socket interface found" in first.evidence[0].text
    assert set(first.consequences) == {finding.id for finding in rest}
    assert {"nccl-peer-closed", "headless-orphan"} <= set(first.consequences)
