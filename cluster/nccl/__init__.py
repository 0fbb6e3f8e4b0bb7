"""What an NCCL log says: which transport every channel took, and whether that is proof of RDMA."""

from cluster.nccl.model import (
    Cause,
    Communicator,
    Edge,
    Hca,
    LinkLayer,
    NodePair,
    Process,
    Rank,
    Report,
    Unfinished,
    Verdict,
)
from cluster.nccl.read import read
from cluster.nccl.report import report_json
from cluster.nccl.verdict import REQUIRE, holds

__all__ = [
    "REQUIRE",
    "Cause",
    "Communicator",
    "Edge",
    "Hca",
    "LinkLayer",
    "NodePair",
    "Process",
    "Rank",
    "Report",
    "Unfinished",
    "Verdict",
    "holds",
    "read",
    "report_json",
]
