"""The identity of what a plan starts, and the text of the inventory that it came from. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import yaml

from cluster.inventory import Inventory
from cluster.plan import Plan
from cluster.render import digests

# How the operator reaches and watches the nodes: nothing that runs there follows from it.
OPERATORS = ("ssh", "lock", "watch", "heal", "hooks")


Key = tuple[str, ...]


def digest_of(plan: Plan, inventory: Inventory) -> str:
    """16 hexadecimal digits over what every node's containers are started with, and every key behind it."""
    started = [(member.name, digests(plan, member)) for member in plan.members]
    words = [f"{name} {found.ray} {found.serve}" for name, found in started]
    keys = [f"{key}={value!r}" for key, value in keys_of(inventory).items()]
    return hashlib.sha256("\0".join((*words, *keys)).encode()).hexdigest()[:16]


def inventory_text(inventory: Inventory) -> str:
    """YAML that `inventory.parse` makes the same inventory of: what was written, but its comments and hooks.

    Hooks run where the operator is, and their command lines may hold a secret (the address of a webhook).
    """
    content = inventory.model_dump(mode="json", exclude_unset=True, exclude={"hooks"})
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def keys_of(inventory: Inventory) -> dict[Key, Any]:
    """{key: value} of all that what runs follows from, defaults included; nodes go by their names.

    Take the inventory as it is played: spares stand by, and nothing follows from them.
    """
    content = inventory.model_dump(mode="json", exclude=set(OPERATORS))
    nodes = content.pop("nodes")
    content["head"] = content["head"] or nodes[0]["name"]
    ordered = sorted(nodes, key=lambda node: node["name"] != content["head"])
    named = {
        node["name"]: {key: value for key, value in node.items() if key not in ("name", "ssh", "spare")}
        | {"node_rank": rank}
        for rank, node in enumerate(ordered)
    }
    return dict(_leaves((), {**content, "nodes": named}))


def _leaves(path: Key, value: Any) -> Iterator[tuple[Key, Any]]:
    if not isinstance(value, dict):
        yield path, value
        return
    for key, inner in value.items():
        yield from _leaves((*path, str(key)), inner)
