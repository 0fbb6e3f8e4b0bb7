"""Facts about what serves: who joined Ray, and whether the model answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cluster.facts.text import json_objects, number, text_or_none, whole_or_none
from cluster.facts.types import Answer, KvCache, RayNode, Scrape
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
        id=str(item.get("id") or ""),
    )


def parse_answer(result: Result) -> dict[str, Any]:
    """The JSON of completion.py, or why the model did not answer."""
    for content in json_objects(result.stdout):
        if isinstance(content.get("answer"), str):
            return {"answer": Answer(content["answer"], number(content.get("seconds")))}
    return {"answer": Answer(None, reason=result.reason)}


def parse_scrape(result: Result) -> dict[str, Any]:
    """The JSON of observe.py, or why there is none."""
    for content in json_objects(result.stdout):
        if "health" in content:
            health, metrics = whole_or_none(content["health"]), text_or_none(content.get("metrics"))
            return {"scrape": Scrape(health, metrics, str(content.get("reason") or ""))}
    return {"scrape": Scrape(reason=result.reason, tried=False)}


def parse_wanted(result: Result) -> dict[str, Any]:
    """The number that the file `current` holds."""
    return {"wanted": result.stdout.strip() if result.exit_code == 0 else ""}


# One line since vLLM 0.28, two before (vllm/v1/core/kv_cache_utils.py); the first engine's will do.
KV_CACHE = "grep -m 2 -oE 'KV cache size: .*|Maximum concurrency for .*'"


def parse_kv_cache(result: Result) -> dict[str, Any]:
    """`GPU KV cache size: 643,232 tokens, Maximum concurrency for 40,960 tokens per request: 15.70x`."""
    tokens = re.search(r"KV cache size: ([0-9,]{1,20}) tokens", result.stdout)
    most = re.search(
        r"Maximum concurrency for ([0-9,]{1,20}) tokens per request: ([0-9]{1,9}\.?[0-9]*)x", result.stdout
    )
    if not tokens or not most:
        return {}
    return {"kv_cache": KvCache(_with_commas(tokens[1]), float(most[2]), _with_commas(most[1]))}


def _with_commas(text: str) -> int:
    return int(text.replace(",", "") or "0")


def parse_last_words(result: Result) -> dict[str, Any]:
    """What is worth reading of the log of a server that is not running."""
    return {"last_words": excerpt(result.stdout)} if result.exit_code == 0 else {}
