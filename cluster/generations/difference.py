"""From one inventory to another, key by key. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.generations.spec import Key, keys_of
from cluster.inventory import Inventory

LONGEST = 60
AUTO = ("tensor_parallel_size", "pipeline_parallel_size")


@dataclass(frozen=True)
class Change:
    """One key; `before` or `after` is None where it is not set. A node that came or went is one change."""

    key: Key
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{'.'.join(self.key)}: {self._shown(self.before)} -> {self._shown(self.after)}"

    def _shown(self, value: Any) -> str:
        if value is None:
            return "auto" if self.key[-1] in AUTO else "not set"
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def difference(before: Inventory, after: Inventory) -> tuple[Change, ...]:
    """What differs between two inventories as they are played, in the order of their keys."""
    return tuple(_changes(keys_of(before), keys_of(after)))


def _changes(before: Mapping[Key, Any], after: Mapping[Key, Any]) -> Iterator[Change]:
    on_one_side = _nodes(before) ^ _nodes(after)
    for key in dict.fromkeys((*before, *after)):
        was, is_now = before.get(key), after.get(key)
        if key[0] == "nodes" and key[1] in on_one_side:
            if key[2:] == ("address",):
                yield Change(key[:2], was, is_now)
        elif was != is_now:
            yield Change(key, was, is_now)


def _nodes(keys: Mapping[Key, Any]) -> set[str]:
    return {key[1] for key in keys if key[0] == "nodes"}
