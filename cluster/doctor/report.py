"""Findings in words for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cluster.doctor.finding import Finding
from cluster.doctor.redact import redacted

WIDEST = 240
MOST_LINES = 6


def report(findings: Sequence[Finding], unreachable: Mapping[str, str]) -> str:
    """The first cause with its evidence, then the rest in brief."""
    return "\n".join(_lines(findings, unreachable))


def _lines(findings: Sequence[Finding], unreachable: Mapping[str, str]) -> Iterator[str]:
    wrong = [finding for finding in findings if finding.kind != "info"]
    if not wrong:
        yield "no known failure in these logs"
    else:
        yield from paragraph(wrong[0])
    folded = set(wrong[0].consequences) if wrong else set()
    for finding in wrong[1:]:
        if finding.id not in folded:
            yield ""
            yield from _in_brief("also: ", finding)
    for finding in findings:
        if finding.kind == "info":
            yield ""
            yield from _in_brief("by the way: ", finding)
    if unreachable:
        yield ""
        yield from (f"not asked: {node}: {reason.splitlines()[0]}" for node, reason in unreachable.items())


def first_cause(findings: Sequence[Finding]) -> str:
    """The first cause as a paragraph, to stand under another error; empty where nothing is wrong."""
    wrong = next((finding for finding in findings if finding.kind != "info"), None)
    return "\n".join(paragraph(wrong)) if wrong else ""


def paragraph(finding: Finding) -> Iterator[str]:
    """One finding in full: where, the lines that show it, why, and what to run."""
    yield _title(finding)
    yield from (f"    {_cut(line.text)}" for line in finding.evidence[:MOST_LINES])
    yield f"  {finding.cause}"
    yield f"  {_advice(finding.remedy)}"
    if finding.link:
        yield f"  See: {finding.link}"
    if finding.consequences:
        yield f"  consequences: {', '.join(finding.consequences)}"


def _in_brief(opening: str, finding: Finding) -> Iterator[str]:
    yield f"{opening}{_title(finding)}"
    yield from (f"    {_cut(line.text)}" for line in finding.evidence[:1])
    yield f"  {_advice(finding.remedy)}"


def _title(finding: Finding) -> str:
    return f"{finding.id} on {finding.node}" if finding.node else finding.id


def _advice(remedy: str) -> str:
    return f"{'Run' if remedy.startswith('`') else 'Do'}: {remedy}"


def _cut(text: str) -> str:
    """Short, and without what looks like a secret."""
    text = redacted(text.strip())
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."
