"""Reading JSON that may stand between other lines, without ever raising."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any


def json_objects(text: str) -> Iterator[Mapping[str, Any]]:
    """The JSON objects that have a line to themselves."""
    for line in text.splitlines():
        if line.startswith("{"):
            content = json_or_none(line)
            if isinstance(content, dict):
                yield content


def json_list(text: str) -> list[Mapping[str, Any]]:
    """The objects of a JSON list that begins a line and runs to the end."""
    start = re.search(r"^\[", text, re.MULTILINE)
    content = json_or_none(text[start.start() :]) if start else None
    return [item for item in content if isinstance(item, dict)] if isinstance(content, list) else []


def json_or_none(text: str) -> Any:
    """The JSON value, or None."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def mapping(value: Any) -> Mapping[str, Any]:
    """The value where it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def whole(value: Any) -> int:
    """The value where it is a whole number, else 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def number(value: Any) -> float:
    """The value where it is a finite number, else 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    try:
        return float(value) if math.isfinite(value) else 0.0
    except OverflowError:
        return 0.0


def text_or_none(value: Any) -> str | None:
    """The value where it is text, else None."""
    return value if isinstance(value, str) else None


def whole_or_none(value: Any) -> int | None:
    """The value where it is a whole number, also as text, else None."""
    if isinstance(value, str) and 0 < len(value) <= 20 and value.isascii() and value.isdigit():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def texts(value: Any) -> tuple[str, ...]:
    """The texts of a list, else nothing."""
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def mappings(value: Any) -> tuple[Mapping[str, Any], ...]:
    """The mappings of a list, else nothing."""
    return tuple(item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()
