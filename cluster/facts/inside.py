"""What vLLM finds where it runs: asked of an image, of a container, or of a virtual environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cluster.facts.model_files import parse_model
from cluster.facts.text import json_objects, mapping, text_or_none, texts, whole, whole_or_none
from cluster.facts.types import LONGEST, Inside, Versions
from cluster.on_node import program
from cluster.plan import Plan
from cluster.steps import Argv, Result

# What docker adds to a complaint; before 28 "See", since then "Run".
HELP = re.compile(r"^(See|Run) '.*--help'.*$", re.MULTILINE)


KEYS = ("python", "ray", "vllm", "nccl")
# What `timeout` exits with, after SIGTERM and after SIGKILL.
KILLED = (124, 137)


def question(plan: Plan, hashing: bool) -> Argv:
    """The program and its arguments, for python3."""
    model = plan.model
    return (
        "-c",
        program("inside.py"),
        model.source,
        model.revision or "main",
        *(("hash",) if hashing else ()),
    )


def parse_inside(result: Result) -> dict[str, Any]:
    """The JSON of on_node/inside.py, or why there is none: an engine's complaint, no Python."""
    for content in json_objects(result.stdout):
        if "python" in content:
            versions = {key: text_or_none(content.get(key)) for key in KEYS}
            return {"versions": Versions(**versions), "inside": _inside(content)}
    if result.exit_code in KILLED:
        return {"versions_error": f"no answer within {LONGEST} s", "inside_code": result.exit_code}
    complaint = HELP.sub("", result.stdout)
    if not complaint.strip():
        return {}
    return {"versions_error": Result(1, complaint, "").reason, "inside_code": result.exit_code}


def _inside(content: Mapping[str, Any]) -> Inside:
    cuda = mapping(content.get("cuda"))
    return Inside(
        memlock=whole_or_none(content.get("memlock")),
        nofile=whole_or_none(content.get("nofile")),
        shm_bytes=whole_or_none(content.get("shm_bytes")),
        proxies={str(name): str(value) for name, value in mapping(content.get("proxies")).items()},
        infiniband=texts(content.get("infiniband")),
        resolves_to=texts(content.get("resolves_to")),
        cuda=(whole(cuda.get("code")), whole(cuda.get("devices"))) if cuda else None,
        cuda_version=whole_or_none(cuda.get("version")),
        model=parse_model(content.get("model")),
    )
