"""Why it is worse than it could be, from what the log says."""

from __future__ import annotations

import pytest

from cluster.checks.ids import IDS
from cluster.doctor.load import packaged
from cluster.nccl import Report, read
from cluster.nccl.clues import CLUES
from tests.nccllog import Run, processes

WHO = "gpu-01:1000:1000 [0] "
OWN = {
    *("nccl-no-network", "gdr-distance", "gdr-disabled", "net-plugin-missing", "nccl-ib-disabled"),
    *("nccl-net-forced", "nccl-log-folded", "nccl-log-cut", "nccl-log-missing"),
}


def report(run: Run, *more: str) -> Report:
    lines = [*more, *(line.text for process in processes(run) for line in process.lines)]
    return read([("x", ["".join(f"{line}\n" for line in lines).encode()])])


SOCKET = Run(network="Socket")
NO_GDR = Run(network="IB", gdr=False)
STOPPED = Run(stopped=frozenset((1,)))


@pytest.mark.parametrize(
    ("run", "line", "first"),
    [
        (SOCKET, "NCCL INFO cudaDriverVersion 13000", "ib-device-missing"),
        (SOCKET, "NCCL INFO NCCL_IB_DISABLE set by environment to 1.", "nccl-ib-disabled"),
        (SOCKET, "NCCL INFO NCCL_NET set by environment to Socket", "nccl-net-forced"),
        (SOCKET, "NCCL INFO NCCL_IB_HCA set by environment to mlx6", "hca-unknown"),
        (NO_GDR, "NCCL INFO cudaDriverVersion 13000", "gdr-off"),
        (NO_GDR, "NCCL INFO NCCL_NET_GDR_LEVEL set by environment to LOC", "gdr-disabled"),
        (
            NO_GDR,
            "NCCL INFO GPU Direct RDMA Disabled for GPU 1c000 / HCA 0 (distance 5 > 4)",
            "gdr-distance",
        ),
        (STOPPED, "NCCL INFO cudaDriverVersion 13000", "nccl-init-hang"),
        (STOPPED, "NCCL INFO Bootstrap: Using docker0:172.17.0.1<0>", "nccl-init-hang"),
        (
            NO_GDR,
            "misc/ibvwrap.cc:160 NCCL WARN Call to ibv_reg_mr failed with error Cannot allocate memory",
            "ib-memlock",
        ),
        (
            NO_GDR,
            "ibvwrap.cc:307 NCCL WARN Call to ibv_modify_qp failed with 22 Invalid argument, on dev x",
            "roce-gid",
        ),
        (
            NO_GDR,
            "net_ib.cc:9 NCCL WARN NET/IB : Got completion from peer 10.1.1.1<4> with status=12 opcode=1",
            "ib-retry-exceeded",
        ),
        (
            Run(network="RoCE"),
            "net_ib.cc:9 NCCL WARN NET/IB : Got completion from peer 10.1.1.1<4> with status=12 opcode=1",
            "roce-gid",
        ),
        (Run(without_gdr=frozenset({(3, 0, 0)})), "NCCL INFO cudaDriverVersion 13000", "gdr-distance"),
        (
            NO_GDR,
            "net_ib.cc:9 NCCL WARN NET/IB : Got completion from peer 10.1.1.1<4> with status=4 opcode=1",
            "acs-enabled",
        ),
        (NO_GDR, "net_ib.cc:120 NCCL WARN NET/IB : mlx5_0:1 Got async event : port error", "ib-port-down"),
        (
            NO_GDR,
            "init.cc:1043 NCCL WARN Mismatched NCCL version detected : rank 0 version 1 rank 8 version 2",
            "nccl-version-mismatch",
        ),
    ],
)
def test_the_first_cause(run: Run, line: str, first: str) -> None:
    found = report(run, WHO + line)
    assert found.problems[0].id == first, [problem.id for problem in found.problems]
    assert all(problem.evidence and problem.remedy for problem in found.problems)
    assert (found.verdict == "failed") == ("WARN" in line)


def test_the_interface_is_named() -> None:
    lines = f"{WHO}NCCL INFO NET/Socket : Using [0]docker0:172.17.0.1<0>"
    run = [line.text for line in processes(SOCKET)[0].lines]
    found = read([("x", ["".join(f"{text}\n" for text in (*run, lines)).encode()])])
    (cause,) = (problem for problem in found.problems if problem.id == "nccl-wrong-iface")
    assert "docker0" in cause.evidence


def test_a_proven_network_has_no_problem() -> None:
    assert report(Run()).problems == ()


def test_a_peer_that_leaves_at_the_end_is_no_failure() -> None:
    lines = [line.text for process in processes(Run()) for line in process.lines]
    left = f"{WHO}misc/socket.cc:58 NCCL WARN socketProgress: Connection closed by remote peer gpu-02<45763>"
    whole = read([("x", ["".join(f"{line}\n" for line in (*lines, left)).encode()])])
    assert whole.verdict == "gdrdma" and len(whole.warnings) == 1
    stopped = report(STOPPED, left)
    assert (stopped.verdict, stopped.problems[0].id) == ("failed", "nccl-peer-closed")


def test_torch_says_that_nccl_failed() -> None:
    line = "RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)"
    found = report(Run(), line)
    assert (found.verdict, found.problems[0].id) == ("failed", "nccl-system-error")


def test_ids_are_those_of_checks_and_signatures() -> None:
    known = set(IDS) | {signature.id for signature in packaged()} | OWN
    assert {clue.id for clue in CLUES} <= known
