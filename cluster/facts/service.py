"""Facts about what serves: who joined Ray, and whether the model answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.facts.text import json_objects, number
from cluster.facts.types import Answer, RayNode
from cluster.log_lines import excerpt
from cluster.steps import Result


def parse_ray_nodes(result: Result) -> dict[str, Any]:
    """The JSON of ray_nodes.py, or why Ray did not answer."""
    for content in json_objects(result.stdout):
        if isinstance(content.get("nodes"), list):
            return {
                "ray_nodes": tuple(_ray_node(item) for item in content["nodes"] if isinstance(item, dict))
            }
    return {"ray_error": result.reason}


def _ray_node(item: Mapping[str, Any]) -> RayNode:
    return RayNode(
        address=str(item.get("address", "")),
        name=str(item.get("name", "")),
        alive=item.get("alive") is True,
        gpus=number(item.get("gpus")),
        reason=str(item.get("reason") or ""),
    )


def parse_answer(result: Result) -> dict[str, Any]:
    """The JSON of completion.py, or why the model did not answer."""
    for content in json_objects(result.stdout):
        if isinstance(content.get("answer"), str):
            return {"answer": Answer(content["answer"], number(content.get("seconds")))}
    return {"answer": Answer(None, reason=result.reason)}


def parse_last_words(result: Result) -> dict[str, Any]:
    """What is worth reading of the log of a server that is not running."""
    return {"last_words": excerpt(result.stdout)} if result.exit_code == 0 else {}
