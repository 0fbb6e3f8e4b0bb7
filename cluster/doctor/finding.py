"""What the doctor found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from cluster.doctor.redact import redacted
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


def without_secrets(finding: Finding, secrets: Iterable[str] = ()) -> Finding:
    """Its evidence without these values, and without what looks like a secret."""
    known = tuple(secrets)
    lines = tuple(replace(line, text=redacted(line.text, known)) for line in finding.evidence)
    return replace(finding, evidence=lines)


def finding_json(finding: Finding) -> dict[str, Any]:
    """A finding for programs; evidence as the lines' text, without what looks like a secret."""
    return {
        "id": finding.id,
        "kind": finding.kind,
        "layer": finding.layer,
        "node": finding.node,
        "evidence": [redacted(line.text.strip()) for line in finding.evidence],
        "cause": finding.cause,
        "remedy": finding.remedy,
        "link": finding.link,
        "consequences": list(finding.consequences),
    }
