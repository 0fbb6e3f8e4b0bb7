"""Reading an inventory: YAML with the line of every key, then pydantic, then the rules."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path as File
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from cluster.errors import Complaint, InventoryError
from cluster.inventory.model import Inventory
from cluster.inventory.rules import SECRET_NAME, Path, findings

Lines = Mapping[Path, int]

# YAML's escapes can write them, files and command lines cannot carry them.
NO_TEXT = re.compile(r"[\0\ud800-\udfff]")


def load(file: File) -> Inventory:
    """The inventory in a file, with paths of a local inventory made absolute.

    Raises InventoryError: the file cannot be read, or what `parse` raises.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InventoryError(str(file), [Complaint(None, "", "no such file")]) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file in UTF-8"
        raise InventoryError(str(file), [Complaint(None, "", reason)]) from error
    return _with_local_paths(parse(text, str(file)), file.absolute().parent)


def parse(text: str, file: str) -> Inventory:
    """The inventory that a text says. Pure.

    Raises InventoryError with one complaint per wrong place: line, key path, what.
    """
    content, lines = _read_yaml(text, file)
    if content is None:
        raise InventoryError(file, [Complaint(None, "", "the inventory is empty")])
    if not isinstance(content, dict):
        raise InventoryError(file, [Complaint(1, "", f"expected a mapping, got {_shown(content)}")])
    try:
        inventory = Inventory.model_validate(content)
    except ValidationError as error:
        raise InventoryError(file, _in_order(_from_pydantic(error, lines))) from None
    complaints = [_complaint(path, what, lines) for path, what in findings(inventory)]
    if complaints:
        raise InventoryError(file, _in_order(complaints))
    return inventory


def _with_local_paths(inventory: Inventory, folder: File) -> Inventory:
    """`~`, `./` and `../` mean this machine, seen from the inventory's folder."""
    if not inventory.nodes[0].is_local:
        return inventory
    model = inventory.model.model_copy(update={"source": _absolute(inventory.model.source, folder)})
    venv = inventory.runtime.venv
    runtime = inventory.runtime.model_copy(update={"venv": venv and _absolute(venv, folder)})
    return inventory.model_copy(update={"model": model, "runtime": runtime})


def _absolute(value: str, folder: File) -> str:
    if value.startswith("~"):
        return str(File(value).expanduser())
    if value.startswith(("./", "../")):
        # Not resolve(): a virtual environment's python is a link that must stay one.
        return str(File(*_normal((folder / value).parts)))
    return value


def _normal(parts: Iterable[str]) -> list[str]:
    kept: list[str] = []
    for part in parts:
        if part == "..":
            kept.pop()
        elif part != ".":
            kept.append(part)
    return kept


# --- YAML with lines -----------------------------------------------------------------------------


def _read_yaml(text: str, file: str) -> tuple[Any, dict[Path, int]]:
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None, {}
        lines: dict[Path, int] = {}
        duplicates = list(_walk(root, (), lines, set()))
        if duplicates:
            raise InventoryError(file, duplicates)
        return loader.construct_document(root), lines
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        problem = " ".join(str(error.problem or error.context or "not YAML").split())
        raise InventoryError(file, [Complaint(line, "", f"YAML syntax: {problem}")]) from None
    except _FROM_YAML as error:
        first = (str(error).splitlines() or ["not YAML"])[0]
        raise InventoryError(file, [Complaint(None, "", f"YAML syntax: {first}")]) from None


# PyYAML's own constructors fail with the builtin ones, on `!!bool maybe` and the like.
_FROM_YAML = (
    *(yaml.YAMLError, ValueError, RecursionError),
    *(ArithmeticError, AttributeError, LookupError, TypeError),
)


def _walk(node: yaml.Node, path: Path, lines: dict[Path, int], above: set[int]) -> Iterator[Complaint]:
    """Fills `lines`, and yields keys that stand twice in one mapping (YAML would keep the last)."""
    lines.setdefault(path, node.start_mark.line + 1)
    if id(node) in above:
        yield Complaint(node.start_mark.line + 1, _key_path(path), "an alias stands inside what it names")
        return
    if isinstance(node, yaml.ScalarNode) and NO_TEXT.search(node.value):
        yield Complaint(node.start_mark.line + 1, _key_path(path), "a character that is no text")
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _walk(item, (*path, index), lines, above | {id(node)})
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = NO_TEXT.sub("?", str(key.value))
            line = key.start_mark.line + 1
            if name in seen and name != "<<":
                yield Complaint(line, _key_path((*path, name)), "this key stands here twice")
            seen.add(name)
            lines[(*path, name)] = line
            yield from _walk(value, (*path, name), lines, above | {id(node)})


# --- what pydantic says, in our words ------------------------------------------------------------


def _from_pydantic(error: ValidationError, lines: Lines) -> Iterator[Complaint]:
    for detail in error.errors(include_url=False):
        path = _without_union_tags(tuple(detail["loc"]), lines)
        yield _complaint(path, _sentence(detail["type"], detail, path), lines)


def _without_union_tags(loc: Path, lines: Lines) -> Path:
    """pydantic puts the branch of a union (`tuple[...]`, `literal[...]`) and `[key]` into the location."""
    path: Path = ()
    for part in loc:
        if isinstance(part, int) or "[" not in part or (*path, part) in lines:
            path = (*path, part)
    return path


def _sentence(kind: str, detail: Any, path: Path) -> str:
    got, context = detail.get("input"), detail.get("ctx", {})
    if path[:1] == ("secrets",) and kind != "extra_forbidden":
        return "a secret is not written down: expected {env: NAME} or {file: PATH}"
    if kind != "extra_forbidden" and path and SECRET_NAME.search(str(path[-1])):
        return f"a secret is not written down: secrets: {{{path[-1]}: {{env: {path[-1]}}}}}"
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if kind == "missing":
        return "is required"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("greater_than_equal", "less_than_equal", "greater_than"):
        bound = {"greater_than_equal": "at least", "less_than_equal": "at most", "greater_than": "more than"}
        return f"expected {bound[kind]} {next(iter(context.values()))}, got {_shown(got)}"
    if kind == "literal_error":
        return f"expected {context['expected']}, got {_shown(got)}"
    if kind == "too_short":
        return "expected at least one"
    if kind == "string_type" and isinstance(got, int | float):
        return f"expected text, got {_shown(got)} (quote it)"
    return f"expected {_EXPECTED.get(kind, detail['msg'])}, got {_shown(got)}"


_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "string_unicode": "text",
    "invalid_key": "text as a key",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unknown_key(path: Path) -> str:
    known = _keys_at(path[:-1])
    near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
    if near:
        return f"unknown key; did you mean {near[0]!r}?"
    return f"unknown key; known here: {', '.join(known)}"


def _keys_at(path: Path) -> list[str]:
    section: type[BaseModel] = Inventory
    for part in path:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    return sorted(section.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _section_in(inner))), None)


# --- places --------------------------------------------------------------------------------------


def _complaint(path: Path, what: str, lines: Lines) -> Complaint:
    return Complaint(_line_of(path, lines), _key_path(path), what)


def _line_of(path: Path, lines: Lines) -> int | None:
    """The line of the key, or of the nearest thing around it where the key is missing."""
    while path not in lines and path:
        path = path[:-1]
    return lines.get(path)


def _key_path(path: Path) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _in_order(complaints: Iterable[Complaint]) -> list[Complaint]:
    """By line; the deepest complaint of a place alone, since a union complains once per branch."""
    first = {c.key_path: c for c in reversed(list(complaints))}
    deepest = [c for path, c in first.items() if not any(other.startswith(f"{path}[") for other in first)]
    return sorted(deepest, key=lambda c: (c.line or 0, c.key_path))
