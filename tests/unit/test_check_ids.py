"""The ids that checks give and the list of them are the same."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import cluster
from cluster.checks.ids import IDS, unknown

KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")
# Programs whose names look like ids.
PROGRAMS = {"nvidia-container-cli"}


def literals(tree: ast.AST) -> set[str]:
    """All that looks like an id: given to Problem at once, or by way of a table."""
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {text for text in texts if isinstance(text, str) and KEBAB.fullmatch(text)} - PROGRAMS


SOURCES = [file.read_text() for file in sorted(Path(cluster.__file__).parent.rglob("*.py"))]
GIVEN = set().union(*(literals(ast.parse(source)) for source in SOURCES if "Problem(" in source))


def test_every_id_that_a_check_gives_stands_in_the_list() -> None:
    assert GIVEN - set(IDS) == set()


def test_every_id_of_the_list_is_given_by_a_check() -> None:
    assert set(IDS) - GIVEN == set()


def test_every_id_has_a_form_and_a_meaning_of_its_own() -> None:
    assert [id_ for id_ in IDS if not KEBAB.fullmatch(id_)] == []
    assert len(set(IDS.values())) == len(IDS)
    assert [meaning for meaning in IDS.values() if meaning != meaning.strip() or meaning.endswith(".")] == []


def test_ids_that_no_check_has_are_named() -> None:
    assert unknown(["gpu-busy", "gpu-bussy", "", "clock-skew"]) == ("gpu-bussy", "")
    assert unknown(IDS) == ()
