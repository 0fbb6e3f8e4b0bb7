"""What environments.py said of two processes with NCCL on two H200s of one host, "nodes" by NCCL_HOSTID.

Each had done an all-reduce, a send and a receive, and waited: NCCL's file of a living process is whole.
"""

from __future__ import annotations

from pathlib import Path

from cluster.proof.attestation import Attestation, parse
from cluster.proof.served import said
from cluster.proof.transport import report_of
from cluster.steps import Result

ANSWER = Path(__file__).parent / "attestation" / "two-h200-as-two-nodes.json"


def attestation() -> Attestation:
    found = parse(Result(0, ANSWER.read_text(), ""))
    assert isinstance(found, Attestation)
    return found


def test_the_log_of_each_process_came_along_and_gives_the_verdict() -> None:
    found = attestation()
    assert [log.pid for log in found.logs] == [process.pid for process in found.processes]
    report = report_of({"gpu-01": found.logs})
    assert report is not None
    assert (report.verdict, report.nodes) == ("socket", ("gpu-01", "gpu-02"))
    assert {(edge.src, edge.dst, edge.transport, edge.device) for edge in report.edges} == {
        (0, 1, "NET/Socket", "lo"),
        (1, 0, "NET/Socket", "lo"),
    }


def test_what_nccl_says_was_set_is_what_the_process_was_started_with() -> None:
    found = attestation()
    variables = said({"gpu-01": found}, report_of({"gpu-01": found.logs}))["gpu-01"]
    assert set(variables) == {process.pid for process in found.processes}
    for process in found.processes:
        assert variables[process.pid].items() <= (process.environment or {}).items()
        assert variables[process.pid]["NCCL_SOCKET_IFNAME"] == "=lo"
