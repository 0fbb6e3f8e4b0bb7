"""How often `clusterctl doctor` names the right first cause, on logs that its signatures' author did not see.

tests/corpus has failures provoked on real hosts (`python -m tests.lab.provoke`), made of the programs' own
format strings (`python -m tests.corpus.generate`), and recorded on GPUs. A third of the first two is held
out: nobody tunes signatures on those.
"""

from __future__ import annotations

import gzip
import io
import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import cli
from tests.corpus import generate

CORPUS = Path(__file__).parent.parent / "corpus"


@dataclass(frozen=True)
class Case:
    folder: Path
    of: str
    provenance: str
    cause: str | None
    node: str | None
    acceptable: tuple[str, ...]
    held_out: bool

    @property
    def name(self) -> str:
        return self.folder.name

    def is_right(self, first: str | None) -> bool:
        return first is not None and first in (self.cause, *self.acceptable)


def read_case(label: Path) -> Case:
    content = yaml.safe_load(label.read_text())
    return Case(label.parent, **content | {"acceptable": tuple(content["acceptable"])})


CASES = tuple(read_case(label) for label in sorted(CORPUS.glob("*/label.yaml")))
HEALTHY = tuple(case for case in CASES if case.cause is None)
FAILED = tuple(case for case in CASES if case.cause is not None)


@cache
def findings(case: Case) -> tuple[dict[str, Any], ...]:
    """What the command line makes of all files of the case."""
    said = io.StringIO()
    with redirect_stdout(said):
        cli.main(["doctor", "--json", *map(str, sorted(case.folder.glob("*.log*")))])
    return tuple(json.loads(said.getvalue())["findings"])


@pytest.mark.parametrize("case", HEALTHY, ids=lambda case: case.name)
def test_a_healthy_run_has_no_cause(case: Case) -> None:
    assert [found["id"] for found in findings(case) if found["kind"] in ("root", "symptom")] == []


@pytest.mark.parametrize(
    ("provenance", "held_out", "floor"),
    [
        ("lab", False, 30),
        ("lab", True, 22),
        ("format-string", False, 23),
        ("format-string", True, 10),
        ("recorded", False, 1),
    ],
    ids=["lab", "lab-held-out", "format-string", "format-string-held-out", "recorded"],
)
def test_the_first_finding_is_the_cause(provenance: str, held_out: bool, floor: int) -> None:
    """`floor`: how many were right in the first run, before anybody tuned signatures on these cases."""
    cases = [case for case in FAILED if (case.provenance, case.held_out) == (provenance, held_out)]
    firsts = {case: next((found["id"] for found in findings(case)), None) for case in cases}
    right = sum(case.is_right(first) for case, first in firsts.items())
    located = [case for case, first in firsts.items() if case.is_right(first) and case.node]
    names = [case for case in located if findings(case)[0]["node"] == case.node]
    print(f"its node is right in {len(names)} of {len(located)}")
    print(f"{provenance}{', held out' if held_out else ''}: {right} of {len(cases)} first causes are right")
    for case, first in firsts.items():
        if not case.is_right(first):
            print(f"  {case.name}: {first}, and not {case.cause}")
    assert right >= floor


def test_the_made_cases_are_what_their_generator_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["generate", str(tmp_path)])
    generate.main()
    assert files(tmp_path) == files(CORPUS)


def files(base: Path) -> dict[str, bytes]:
    """The made cases' files; compressed ones as they were before, because zlib's output may change."""
    return {
        str(file.relative_to(base)): gzip.decompress(content) if file.suffix == ".gz" else content
        for file in base.glob(f"{generate.PREFIX}*/*")
        for content in [file.read_bytes()]
    }


def test_the_corpus_is_as_large_as_it_says() -> None:
    assert sum(case.provenance == "lab" for case in FAILED) >= 24
    assert sum(case.provenance == "format-string" for case in FAILED) >= 25
    assert len(HEALTHY) >= 4
