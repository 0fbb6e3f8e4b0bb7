"""What every process of a log has said, gathered line by line in memory of the job's size, not the log's."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TypeVar

from cluster.nccl import clues
from cluster.nccl.events import Event
from cluster.nccl.lines import cleaned
from cluster.nccl.listen import apply
from cluster.nccl.model import Process
from cluster.nccl.phrases import VERSION, understood
from cluster.nccl.speech import Said, Speaker, said
from cluster.nccl.state import Speech, Thread

INFO = b"NCCL INFO "
HEADS = frozenset(b"Chan Coll Conn Tree nccl comm [Ran NET/ Usin NCCL Boot Fail Dete HINT Call".split()) | {
    b"GPU "
}
TELLING = re.compile(
    rb"Channel |CollNet |Connected (?!to )|Trees \[|nccl\w+ comm |comm |\[Rank |Using network |NCCL_|NCCL v"
    rb"|Bootstrap ?: |NET/(?:IB|Socket) : (?:Using|Made)|NET/IB: \[|\d+ coll channels|Fail|Dete|HINT|Call"
)
MAYBE = (b"NET/", b"GPU ")
RETURNED = re.compile(r"[\w/]+\.(?:cc|cu|h):\d+ -> [1-9]")
FATAL_OUTSIDE = (b"NCCL error: ", b"NCCL error in: ", b"Watchdog caught collective")
PERHAPS = (b"NCCL WARN", b" via ", b"Channel ", b"NCCL\x1b", b"INFO\x1b", b"WARN\x1b")
MOST_WARNINGS = 50
ENOUGH = 20_000
"""Messages and prefixes that are remembered; what comes after is parsed again."""


@dataclass(slots=True)
class Log:
    """The sum of all lines. `folded` and `cut` count what cannot be read; `parts` names the sources that are
    known not to be whole."""

    speeches: dict[Process, Speech] = field(default_factory=dict)
    threads: dict[Speaker, Thread] = field(default_factory=dict)
    versions: set[str] = field(default_factory=set)
    outside: set[str] = field(default_factory=set)
    folded: int = 0
    cut: int = 0
    parts: tuple[str, ...] = ()
    _prefixes: dict[bytes, Thread] = field(default_factory=dict)
    _messages: dict[bytes, Event] = field(default_factory=dict)

    def take(self, line: bytes, whole: bool) -> None:
        """One line that speaks of NCCL, or may be a piece of such a one.

        A plain line's beginning decides whether anything more is done with it; its speaker and its message
        are looked up where they were heard before.
        """
        at = line.find(INFO)
        if at < 0:
            self._take_other(line, whole)
            return
        start = at + 10  # of INFO
        if line.find(INFO, start) >= 0 or line.find(b" via ", 0, at) >= 0 or b"repeated" in line or not whole:
            self._take_slowly(line, whole)
        elif says_something(line, start):
            self._take_plain(line, at, start)

    def _take_plain(self, line: bytes, at: int, start: int) -> None:
        prefix = b" ".join(line[:at].rsplit(b" ", 3)[-3:-1])  # `host:pid:tid [device]`
        thread = self._prefixes.get(prefix)
        if thread is None:
            if thread := self._take_slowly(line, True):
                _remember(self._prefixes, prefix, thread)
            return
        event = self._messages.get(line[start:])
        if event:
            apply(thread, event)
            return
        message = cleaned(line[start:])
        event = self._hear_message(thread, "INFO", message, True)
        if event:
            _remember(self._messages, line[start:], event)

    def _take_slowly(self, line: bytes, whole: bool) -> Thread | None:
        """The thread, where all of the line is one message of it."""
        pieces = list(said(cleaned(line), whole))
        threads = [self._hear(piece) for piece in pieces]
        return threads[0] if len(pieces) == 1 and not pieces[0].folded else None

    def _hear(self, piece: Said) -> Thread | None:
        self.folded += piece.folded
        if piece.level == "cut":
            self.cut += 1
        if piece.speaker is None:
            return None
        thread = self._thread(piece.speaker)
        self._hear_message(thread, piece.level, piece.message, piece.whole)
        return thread

    def _hear_message(self, thread: Thread, level: str, message: str, whole: bool) -> Event | None:
        event = understood(message, whole) if level == "INFO" else None
        if event:
            apply(thread, event)
        else:
            _look_for_trouble(thread.speech, level, message)
        return event

    def _thread(self, speaker: Speaker) -> Thread:
        if speaker not in self.threads:
            process = (speaker.host, speaker.pid)
            speech = self.speeches.setdefault(process, Speech(process))
            self.threads[speaker] = Thread(speech, speaker.device)
        return self.threads[speaker]

    def _take_other(self, line: bytes, whole: bool) -> None:
        """Lines without `NCCL INFO`: warnings, the version on a line of its own, torch's errors, pieces."""
        if any(word in line for word in FATAL_OUTSIDE):
            self.outside.add(cleaned(line)[-400:])
            if len(self.outside) > 50:
                self.outside.remove(max(self.outside))
        elif any(word in line for word in PERHAPS):
            self._take_slowly(line, whole)
        elif b"NCCL version " in line and (found := VERSION.search(cleaned(line))):
            self.versions.add(found[1])


def _look_for_trouble(speech: Speech, level: str, message: str) -> None:
    if level == "WARN" and len(speech.warnings) < MOST_WARNINGS:
        speech.warnings.append(message)
    for id_ in clues.found(message, level):
        speech.clues.setdefault(id_, message)
        if level == "WARN" and clues.BY_ID[id_].fatal:
            speech.failures.setdefault(id_, message)
    if RETURNED.fullmatch(message):
        speech.errors[1:] = [message]


def says_something(line: bytes, start: int) -> bool:
    """By its beginning: a cut or coloured one, a failing call (`init.cc:126 -> 5`), or one TELLING knows."""
    head = line[start : start + 4]
    if head not in HEADS and not head[:1].isdigit():
        return len(head) < 4 or b" -> " in line[-16:] or b"\x1b" in head
    if TELLING.match(line, start):
        return True
    return head in MAYBE and (
        b"isabled" in line
        or b"No " in line
        or b"ailed" in line
        or b"nable" in line
        or b"not find" in line
        or b"returned" in line
    )


Value = TypeVar("Value")


def _remember(cache: dict[bytes, Value], key: bytes, value: Value) -> None:
    if len(cache) >= ENOUGH:
        cache.clear()
    cache[key] = value
