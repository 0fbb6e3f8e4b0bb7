"""The report as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cluster.nccl.model import Report

EDGE = ("src", "dst", "transport", "device", "gdrdma", "channels")


def report_json(report: Report) -> dict[str, Any]:
    """The keys that `clusterctl nccl --json` promises; tuples become lists."""
    return {
        "verdict": report.verdict,
        "reason": report.reason,
        "link_layer": report.link_layer,
        "network": report.network,
        "nccl_version": ", ".join(report.nccl_versions) or None,
        "ranks": [asdict(rank) for rank in report.ranks],
        "nodes": list(report.nodes),
        "edges": [
            {name: getattr(edge, name) for name in EDGE} | {"channels": list(edge.channels)}
            for edge in report.edges
        ],
        "node_pairs": [
            asdict(pair) | {"transports": list(pair.transports), "hcas": list(pair.hcas)}
            for pair in report.node_pairs
        ],
        "problems": [asdict(problem) for problem in report.problems],
        "unfinished": [asdict(rank) for rank in report.unfinished],
    }
