"""From lines to findings: the first cause first, what follows from it folded under it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache

from cluster.doctor.finding import Finding
from cluster.doctor.match import WINDOW, Hit, Matcher, Part
from cluster.doctor.signature import Kind, Signature, Signatures
from cluster.doctor.unknown import LastException
from cluster.log_lines import LogLine, with_nine_decimals

When = tuple[bool, str, int]  # untimed lines behind timed ones, then the time, then the place
MATCHES: tuple[Part, ...] = ("patterns", "weak")
MOST_EVIDENCE = 6
MOST_OPEN = 4096
ORDER: tuple[Kind, ...] = ("root", "symptom", "info")


def diagnose(
    lines: Iterable[LogLine],
    signatures: Iterable[Signature],
    skew: Mapping[str, float] | None = None,
    names: Mapping[str, str] | None = None,
) -> tuple[Finding, ...]:
    """All that the lines show: roots, then symptoms, then infos, the first cause first.

    `skew` is {node: seconds by which its clock is ahead}; `names` is {address or hostname: node name}. A root
    beats a symptom, a specific root a generic one; then `precedes` decides, then the earlier event. Of the
    ranks that die together, the one that says so loudest is usually the victim: those are the symptoms. Where
    nothing of it is known, the last exception is an `unknown-error`.
    """
    signatures = tuple(signatures)
    follow, last = _Following(), LastException()
    records: dict[str, _Record] = {}
    for hit in _matcher(signatures).hits(last.listening(follow.listening(lines)), names or {}):
        record = records.setdefault(hit.signature.id, _Record(hit.signature))
        if record.add(hit, _when(hit, skew or {})) and hit.signature.context:
            follow.collect(record, hit)
    for record in records.values():
        record.settle()
    found = [record for record in records.values() if record.first is not None]
    findings = _folded([_finding(record) for record in _in_order(found)], {s.id: s for s in signatures})
    known = any(finding.kind != "info" for finding in findings)
    return findings if known or last.finding is None else (last.finding, *findings)


@lru_cache(maxsize=2)
def _matcher(signatures: Signatures) -> Matcher:
    return Matcher(signatures)


@dataclass
class _Record:
    """What is known of one signature so far."""

    signature: Signature
    first: Hit | None = None
    when: When = (True, "", 0)
    strong: bool = False
    required: bool = False
    ruled_out: bool = False
    later: dict[str, Hit] = field(default_factory=dict)
    after: list[LogLine] = field(default_factory=list)
    open: dict[tuple[str, str, str, str], tuple[Hit, When]] = field(default_factory=dict)
    over: set[tuple[str, str]] = field(default_factory=set)

    def add(self, hit: Hit, when: When) -> bool:
        """Whether this is the earliest event so far."""
        log = hit.key[:2]
        if hit.part == "not_after":
            self.over.add(log)
        elif log in self.over:
            return False
        elif hit.part == "closed_by":
            for part in MATCHES:
                self.open.pop((part, *hit.key), None)
        elif hit.part in ("requires", "unless"):
            self.required |= hit.part == "requires"
            self.ruled_out |= hit.part == "unless"
        elif self.signature.closed_by:
            if len(self.open) < MOST_OPEN:
                self.open.setdefault((hit.part, *hit.key), (hit, when))
        else:
            return self._take(hit, when)
        return False

    def settle(self) -> None:
        """What was never closed did happen."""
        for hit, when in self.open.values():
            self._take(hit, when)

    def _take(self, hit: Hit, when: When) -> bool:
        """Keep the earliest; a strong pattern beats a weak one."""
        strong = hit.part == "patterns"
        first = self.first
        if first is None or (not strong, when) < (not self.strong, self.when):
            self.first, self.when, self.strong = hit, when, strong
            self.after = []
            return True
        if _says_where(first, hit):
            self.first = replace(first, node=hit.node, names_node=True)
        elif len(self.later) < MOST_EVIDENCE:
            self.later.setdefault(hit.node, hit)
        return False

    @property
    def kind(self) -> Kind:
        counts = self.strong or (self.required and not self.ruled_out)
        return self.signature.kind if counts else "info"


def _says_where(first: Hit, later: Hit) -> bool:
    """Whether the later one is the rest of the first message, and names the node."""
    same = later.key == first.key and later.number - first.number < WINDOW
    return same and later.names_node and not first.names_node


class _Following:
    """The lines behind a match, for those signatures whose message goes on."""

    def __init__(self) -> None:
        self._open: list[tuple[_Record, tuple[str, str], int]] = []

    def collect(self, record: _Record, hit: Hit) -> None:
        line = hit.lines[-1]
        others = [entry for entry in self._open if entry[0] is not record]
        self._open = [*others, (record, (line.node, line.role), hit.signature.context)]

    def listening(self, lines: Iterable[LogLine]) -> Iterator[LogLine]:
        for line in lines:
            if self._open:
                self._take(line)
            yield line

    def _take(self, line: LogLine) -> None:
        still_open = []
        for record, stream, left in self._open:
            if stream == (line.node, line.role):
                record.after.append(line)
                left -= 1
            if left > 0:
                still_open.append((record, stream, left))
        self._open = still_open


def _when(hit: Hit, skew: Mapping[str, float]) -> When:
    line = hit.lines[-1]
    if not line.time:
        return True, "", hit.number
    return False, _on_our_clock(line.time, skew.get(line.node, 0.0)), hit.number


def _on_our_clock(time: str, ahead: float) -> str:
    """A node's time as the operator's clock would have shown it; what is no time stays what it is."""
    if not ahead:
        return time
    try:
        moment = datetime.fromisoformat(time[:26]) - timedelta(seconds=ahead)
    except (ValueError, OverflowError):
        return time
    return with_nine_decimals(moment.isoformat())


def _in_order(records: list[_Record]) -> Iterator[_Record]:
    """By kind, specific before generic, by `precedes`, by time."""
    left = sorted(
        records, key=lambda record: (ORDER.index(record.kind), record.signature.generic, record.when)
    )
    while left:
        free = (record for record in left if not any(_comes_before(other, record) for other in left))
        following = next(free, left[0])  # in a circle of `precedes`, the earliest
        left.remove(following)
        yield following


def _comes_before(one: _Record, other: _Record) -> bool:
    """Whether `precedes` says so, among those of one kind."""
    if one is other or one.kind != other.kind:
        return False
    return other.signature.id in one.signature.precedes


def _finding(record: _Record) -> Finding:
    assert record.first is not None
    signature, first = record.signature, record.first
    elsewhere = (line for node, hit in record.later.items() if node != first.node for line in hit.lines[-1:])
    evidence = tuple(dict.fromkeys((*first.lines, *record.after, *elsewhere)))[:MOST_EVIDENCE]
    return Finding(
        id=signature.id,
        layer=signature.layer,
        kind=record.kind,
        node=first.node,
        evidence=evidence,
        cause=signature.cause,
        remedy=signature.remedy,
        link=signature.link,
    )


def _folded(findings: list[Finding], signatures: Mapping[str, Signature]) -> tuple[Finding, ...]:
    """The first finding has the ids of what follows from it: symptoms, and roots that are its effects."""
    if not findings or findings[0].kind == "info":
        return tuple(findings)
    first, *rest = findings
    effects = signatures[first.id].precedes
    consequences = tuple(
        other.id
        for other in rest
        if other.kind == "symptom"
        or (other.kind == "root" and (other.id in effects or signatures[other.id].generic))
    )
    return (replace(first, consequences=consequences), *rest)
