"""The last resort: an exception that ended a program, where no signature knows it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from cluster.doctor.finding import Finding
from cluster.doctor.lines import cleaned, split_tag
from cluster.log_lines import LogLine

TRACEBACK = "Traceback (most recent call last):"
# Behind the indented frames: `torch.cuda.OutOfMemoryError: CUDA out of memory`, `AssertionError`.
RAISED = re.compile(r"(?:\[rank\d+\]:? ?)?(?:\w+\.)*[A-Z]\w*(?::\s.*)?$")
# Somebody stopped the program.
STOPPED = re.compile(r"(?:\w+\.)*(?:KeyboardInterrupt|SystemExit|CancelledError|GeneratorExit)\b")
# A server that starts after it has survived it; what is told to stop does not always end well.
ALIVE = "Application startup complete"
TOLD_TO_STOP = ("shutdown triggered", "SIGTERM", "eceived signal 15", "hutting down")
MOST_OPEN = 256
MOST_FRAMES = 400

Speaker = tuple[str, str, str]  # node, role, which process


class LastException:
    """Listens to lines, and remembers the last exception behind a traceback."""

    def __init__(self) -> None:
        self._frames: dict[Speaker, int] = {}
        self._line: LogLine | None = None
        self._over: set[tuple[str, str]] = set()

    def listening(self, lines: Iterable[LogLine]) -> Iterator[LogLine]:
        """The same lines; what is kept does not grow with them."""
        for line in lines:
            if any(words in line.text for words in TOLD_TO_STOP):
                self._over.add((line.node, line.role))
            elif self._frames or TRACEBACK in line.text or ALIVE in line.text:
                self._take(line)
            yield line

    def _take(self, line: LogLine) -> None:
        tag, said = split_tag(cleaned(line.text))
        speaker = (line.node, line.role, tag)
        if TRACEBACK in said:
            if len(self._frames) < MOST_OPEN and (line.node, line.role) not in self._over:
                self._frames[speaker] = MOST_FRAMES
        elif ALIVE in said:
            self._line = None
        elif speaker in self._frames:
            self._in_traceback(speaker, line, said.rstrip())

    def _in_traceback(self, speaker: Speaker, line: LogLine, said: str) -> None:
        self._frames[speaker] -= 1
        raised = RAISED.match(said)
        if raised and not STOPPED.match(said):
            self._line = line
        if raised or not self._frames[speaker]:
            del self._frames[speaker]

    @property
    def finding(self) -> Finding | None:
        """What is known of it: the line, and that nobody knows more."""
        if self._line is None:
            return None
        return Finding(
            id="unknown-error",
            layer="vllm",
            kind="root",
            node=self._line.node,
            evidence=(self._line,),
            cause="A program ended with an exception that no signature knows; this is the last one.",
            remedy="read the traceback above this line in the log; a signature of your own can name it",
        )
