"""The words that a line must have for a pattern to match it: what most lines are dismissed by.

A hundred regular expressions a line would take minutes for a large log; a set of words takes seconds.
"""

from __future__ import annotations

import re

WORD = re.compile(r"[a-z0-9_]{3,}")
GROUP_EDGES = {"(": 1, ")": -1}
QUANTIFIED = re.compile(r"[?*]|\{\d*,?\d*\}")
ANYTHING, OPTIONAL = "\0", "\1"  # in place of what may be any text, and of a character that may be absent


def words_of(text: str) -> frozenset[str]:
    """All words of three and more letters, digits and underscores, in lower case."""
    return frozenset(WORD.findall(text.lower()))


def needed_words(pattern: str) -> frozenset[str]:
    """The whole words of a regular expression that stand in everything it matches; maybe none.

    Only what stands outside of groups and classes counts. What may be absent does not, nor does a word that
    touches anything but literal text. A pattern of several lines is tried at its last one.
    """
    literal = _literal(pattern.rpartition(r"\n")[2] if r"\n" in pattern else pattern)
    joined = re.sub(rf"(?<=\w){OPTIONAL}(?=\w)", ANYTHING, literal).replace(OPTIONAL, "")
    found = re.findall(rf"(?<![\w{ANYTHING}])[a-z0-9_]{{3,}}(?![\w{ANYTHING}])", joined.lower())
    return frozenset(found)


def _literal(pattern: str) -> str:
    """The pattern's text outside of groups, with marks in place of the rest; empty for alternatives."""
    atoms: list[str] = []
    position = 0
    while position < len(pattern):
        atom, position = _atom(pattern, position)
        if atom == "|":
            return ""
        optional = QUANTIFIED.match(pattern, position)
        if optional:
            position = optional.end()
            atom = OPTIONAL if len(atom) == 1 and not (atom.isalnum() or atom in "_\0") else ANYTHING
        elif pattern[position : position + 1] == "+":
            position += 1
            atom += ANYTHING
        atoms.append(atom)
    return "".join(atoms)


def _atom(pattern: str, start: int) -> tuple[str, int]:
    """(the text of the atom at a place or a mark, where the next one begins)."""
    char = pattern[start]
    if char == "\\":
        return _escape(pattern[start + 1 : start + 2]), start + 2
    if char == "[":
        return ANYTHING, _end_of_class(pattern, start)
    if char == "(":
        return ANYTHING, _end_of_group(pattern, start)
    if char in "^$":
        return " ", start + 1
    return (ANYTHING if char == "." else char), start + 1


def _escape(char: str) -> str:
    if char in "bAZn":
        return " "
    return ANYTHING if char.isalnum() else char


def _end_of_class(pattern: str, start: int) -> int:
    """Behind the `]`; one that stands first belongs to the class."""
    found = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]").match(pattern, start)
    return found.end() if found else len(pattern)


def _end_of_group(pattern: str, start: int) -> int:
    depth, position = 0, start
    while position < len(pattern):
        if pattern[position] == "\\":
            position += 2
            continue
        if pattern[position] == "[":
            position = _end_of_class(pattern, position)
            continue
        depth += GROUP_EDGES.get(pattern[position], 0)
        position += 1
        if depth == 0:
            break
    return position
