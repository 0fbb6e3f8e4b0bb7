"""`clusterctl inventory schema` and `clusterctl inventory check`."""

from __future__ import annotations

import json
from pathlib import Path

from cluster import console
from cluster.errors import EXIT_DONE, count
from cluster.inventory import Inventory, load
from cluster.inventory.spares import spares
from cluster.plan import make_plan


def schema() -> int:
    """A JSON Schema of the inventory, for editors."""
    content = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Inventory.model_json_schema()}
    console.say(json.dumps(content, indent=2, ensure_ascii=False))
    return EXIT_DONE


def check(file: Path) -> int:
    """Read the inventory and say what it means. Raises InventoryError."""
    inventory = load(file)
    plan, beside = make_plan(inventory), spares(inventory)
    nodes = count(len(plan.members), "node") + (f" and {count(len(beside), 'spare')}" if beside else "")
    console.say(
        f"{plan.cluster}: {plan.served_name} on {nodes}, {plan.sizes}, head {plan.head.name}, {plan.url}/v1"
    )
    return EXIT_DONE
