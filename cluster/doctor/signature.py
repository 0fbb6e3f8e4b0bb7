"""What a failure looks like, as data: the YAML files in cluster/signatures, and those a user adds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo

from cluster.errors import EXIT_USAGE, ClusterctlError

# The one in C is ten times as fast, where PyYAML was built with it.
LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Kind = Literal["root", "symptom", "info"]


TESTED = "tested"  # a test compiles what is packaged; to do it at each start would take half a second


class SignatureError(ClusterctlError):
    """A signature file cannot be used: file, line, key, what."""

    exit_code = EXIT_USAGE


def _compiles(pattern: str, check: ValidationInfo) -> str:
    if check.context == TESTED:
        return pattern
    try:
        found = re.compile(bounded(pattern), re.IGNORECASE)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    if found.search(""):
        raise ValueError("matches everything: it finds the empty line too")
    return pattern


def bounded(pattern: str) -> str:
    r"""With `\b` before a first and behind a last word character: patterns begin and end with whole words."""
    start = r"\b" if re.match(r"\w", pattern) else ""
    end = r"\b" if re.search(r"(?<!\\)\w$", pattern) else ""
    return f"{start}(?:{pattern}){end}"


Pattern = Annotated[str, Field(min_length=1), AfterValidator(_compiles)]
Text = Annotated[str, Field(min_length=1)]
Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]


class Signature(BaseModel):
    """One failure.

    A `root` explains, a `symptom` follows from something else, an `info` is worth knowing. A `generic` root
    answers only where no other root does: it says what happened rather than why.

    `patterns` are regular expressions, searched in each line without regard to case; one with `\\n` in it is
    searched in the lines up to the current one. A group named `node` says where. What matches `weak` is an
    info, unless `requires` matches somewhere too and `unless` nowhere. `closed_by` takes a match back, if it
    comes later in the same log and the groups named `key` agree: for what is wrong only where its end is
    missing. Nothing that comes after a match of `not_after` in the same log counts: a process that was told
    to stop dies too. `precedes` names failures that this one causes, `context` is how many lines after the
    matching one are evidence as well.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Id
    layer: Literal["ssh", "host", "gpu", "docker", "ib", "nccl", "ray", "vllm", "model"]
    kind: Kind
    generic: bool = False
    patterns: tuple[Pattern, ...] = ()
    weak: tuple[Pattern, ...] = ()
    requires: tuple[Pattern, ...] = ()
    unless: tuple[Pattern, ...] = ()
    closed_by: tuple[Pattern, ...] = ()
    not_after: tuple[Pattern, ...] = ()
    precedes: tuple[Id, ...] = ()
    context: int = Field(0, ge=0, le=20)
    cause: Text
    remedy: Text
    link: str = ""
    versions: str = ""
    samples: tuple[Text, ...] = ()


Signatures = tuple[Signature, ...]


def parse_signatures(text: str, file: str, tested: bool = False) -> Signatures:
    """The signatures that a YAML text lists; patterns that were `tested` are not compiled for the check.

    Raises SignatureError with file, line and key.
    """
    loader = LOADER(text)
    try:
        root = loader.get_single_node()
        content = loader.construct_document(root) if root is not None else None
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, TypeError, LookupError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else file
        problem = getattr(error, "problem", None) or "not YAML"
        raise SignatureError(f"{where}: YAML syntax: {problem}") from None
    if not isinstance(content, list) or not isinstance(root, yaml.SequenceNode):
        raise SignatureError(f"{file}:1: expected a list of signatures, each with an id")
    return tuple(
        _signature(item, node, f"{file}:", number, TESTED if tested else None)
        for number, (item, node) in enumerate(zip(content, root.value, strict=True))
    )


def _signature(item: Any, node: yaml.Node, file: str, number: int, context: str | None) -> Signature:
    try:
        return Signature.model_validate(item, context=context)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = item.get("id") if isinstance(item, dict) else None
        key = ".".join(str(part) for part in (name or f"[{number}]", *first["loc"]))
        what = first["msg"].removeprefix("Value error, ")
        raise SignatureError(f"{file}{_line_of(node, first['loc'])}: {key}: {what}") from None


def _line_of(node: yaml.Node, path: Iterable[str | int]) -> int:
    """The line of the key at a path, or of the nearest thing around it."""
    for part in path:
        inner = dict(_children(node)).get(part)
        if inner is None:
            break
        node = inner
    return node.start_mark.line + 1


def _children(node: yaml.Node) -> Iterator[tuple[str | int, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        yield from ((str(key.value), value) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        yield from enumerate(node.value)


def combined(*groups: Iterable[Signature]) -> Signatures:
    """All signatures; a later one of the same id takes an earlier one's place."""
    by_id = {signature.id: signature for group in groups for signature in group}
    return tuple(by_id.values())
