"""Where signatures match, in one pass over the lines, with what it keeps bounded."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

from cluster.doctor.lines import cleaned, node_of, split_tag
from cluster.doctor.signature import Signature, bounded
from cluster.doctor.words import WORD, needed_words, words_of
from cluster.log_lines import LogLine

Part = Literal["not_after", "patterns", "weak", "requires", "unless", "closed_by"]
PARTS: tuple[Part, ...] = get_args(Part)
WINDOW = 24
# Words that healthy logs are full of: a poor way to find a pattern by.
COMMON = words_of(
    "nccl info warn rank comm init could find gpu rdma net node model the for and not error warning "
    "available memory cache port direct"
)
# A traceback shows the program's source; what was raised stands at its end, with the message.
SOURCE = re.compile(r"(?:\[rank\d+\]:?)?\s*raise \w+")
# What users send and models answer is no word of the program.
CONTENT = re.compile(r"(?:Received request|Generated response) \S+:? ")
MOST_STREAMS = 256


@dataclass(frozen=True)
class Probe:
    """One pattern, ready to be searched for."""

    signature: Signature
    part: Part
    pattern: str
    words: frozenset[str]

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """Compiled when a line has the words: most patterns never are, and all of them take half a second."""
        return re.compile(bounded(self.pattern), re.IGNORECASE)


@dataclass(frozen=True)
class Hit:
    """One match: the lines that show it and the node that it happened on.

    `number` counts all lines; `key` is what a match and its end have in common; `names_node` says that the
    message itself tells where.
    """

    signature: Signature
    part: Part
    node: str
    lines: tuple[LogLine, ...]
    number: int
    key: tuple[str, str, str]
    names_node: bool = False


class Matcher:
    """All patterns of all signatures, ordered by the longest word that each needs."""

    def __init__(self, signatures: Iterable[Signature]) -> None:
        self._by_word: dict[str, list[Probe]] = defaultdict(list)
        self._always: list[Probe] = []
        for probe in _probes(signatures):
            if probe.words:
                self._by_word[max(probe.words, key=_rarity)].append(probe)
            else:
                self._always.append(probe)
        self._words = frozenset(self._by_word)

    def hits(self, lines: Iterable[LogLine], names: Mapping[str, str]) -> Iterator[Hit]:
        """Every match, in the order of the lines. Time is linear in them, memory does not grow with them."""
        recent = _Recent()
        for number, raw in enumerate(lines):
            lowered = raw.text.lower()
            candidates = self._candidates(lowered)
            window = recent.add(raw)
            for probe in candidates:
                found = _search(probe, raw, window)
                if found is not None:
                    match, shown = found
                    groups = match.groupdict()
                    key = (raw.node, raw.role, groups.get("key") or "")
                    node = _node(groups.get("node"), raw, names)
                    yield Hit(probe.signature, probe.part, node, shown, number, key, bool(groups.get("node")))

    def _candidates(self, lowered: str) -> list[Probe]:
        said = WORD.findall(lowered)
        if self._words.isdisjoint(said):
            return self._always
        words = frozenset(said)
        probes = (probe for word in words & self._words for probe in self._by_word[word])
        return [*self._always, *(probe for probe in probes if probe.words <= words)]


def _rarity(word: str) -> tuple[bool, int, str]:
    return word not in COMMON, len(word), word


def _probes(signatures: Iterable[Signature]) -> Iterator[Probe]:
    for signature in signatures:
        for part in PARTS:
            for pattern in getattr(signature, part):
                yield Probe(signature, part, pattern, needed_words(pattern))


class _Recent:
    """The last lines of each log, for messages of several lines."""

    def __init__(self) -> None:
        self._streams: dict[tuple[str, str], deque[LogLine]] = {}

    def add(self, line: LogLine) -> deque[LogLine]:
        key = (line.node, line.role)
        if key not in self._streams and len(self._streams) >= MOST_STREAMS:
            self._streams.pop(next(iter(self._streams)))
        stream = self._streams.setdefault(key, deque(maxlen=WINDOW))
        stream.append(line)
        return stream


def _search(
    probe: Probe, line: LogLine, window: deque[LogLine]
) -> tuple[re.Match[str], tuple[LogLine, ...]] | None:
    text = cleaned(line.text)
    said = split_tag(text)[1]
    if SOURCE.match(said) or CONTENT.match(said):
        return None
    if r"\n" not in probe.pattern:
        match = probe.regex.search(text)
        return (match, (replace(line, text=text),)) if match else None
    tag, _ = split_tag(text)
    same = [(one, words) for one in window for mark, words in [split_tag(cleaned(one.text))] if mark == tag]
    joined = "\n".join(words for _, words in same)
    match = probe.regex.search(joined)
    if match is None:
        return None
    first = joined.count("\n", 0, match.start())
    last = joined.count("\n", 0, match.end())
    return match, tuple(replace(one, text=words) for one, words in same[first : last + 1])


def _node(named: str | None, line: LogLine, names: Mapping[str, str]) -> str:
    return names.get(named, named) if named else node_of(replace(line, text=cleaned(line.text)), names)
