"""What the doctor found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.doctor.signature import Kind
from cluster.log_lines import LogLine


@dataclass(frozen=True)
class Finding:
    """One failure that the logs show; `evidence` are the lines that do, `consequences` ids it explains."""

    id: str
    layer: str
    kind: Kind
    node: str
    evidence: tuple[LogLine, ...]
    cause: str
    remedy: str
    link: str = ""
    consequences: tuple[str, ...] = ()


def finding_json(finding: Finding) -> dict[str, Any]:
    """A finding for programs; evidence as the lines' text."""
    return {
        "id": finding.id,
        "kind": finding.kind,
        "layer": finding.layer,
        "node": finding.node,
        "evidence": [line.text.strip() for line in finding.evidence],
        "cause": finding.cause,
        "remedy": finding.remedy,
        "link": finding.link,
        "consequences": list(finding.consequences),
    }
