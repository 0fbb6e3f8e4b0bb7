"""The model's folder as a node has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.facts.text import mapping, mappings, text_or_none, texts, whole_or_none


@dataclass(frozen=True)
class ModelFile:
    """A file of a model; `digest` None: not read; `broken` says what is wrong with it by itself."""

    name: str
    size: int | None
    digest: str | None = None
    broken: str = ""


@dataclass(frozen=True)
class ModelFiles:
    """A model's folder; `cached`: it was looked for in the Hugging Face cache, by its id.

    `shards` are the files that the index names, `index_bytes` its total_size in bytes, and `incomplete`
    the downloads into the cache that did not end.
    """

    path: str
    cached: bool = False
    there: bool = True
    config: Mapping[str, Any] | None = None
    index_bytes: int | None = None
    shards: tuple[str, ...] = ()
    files: tuple[ModelFile, ...] = field(default=())
    incomplete: tuple[str, ...] = ()

    @property
    def weight_bytes(self) -> int:
        """Of all weight files together."""
        ends = (".safetensors", ".bin", ".gguf", ".pt")
        return sum(file.size or 0 for file in self.files if file.name.endswith(ends))


def parse_model(value: Any) -> ModelFiles | None:
    """The `model` of inside.py; None where it is none."""
    content = mapping(value)
    if not content:
        return None
    config = content.get("config")
    return ModelFiles(
        path=str(content.get("path", "")),
        cached=content.get("cached") is True,
        there=content.get("there") is True,
        config=config if isinstance(config, dict) else None,
        index_bytes=whole_or_none(content.get("index_bytes")),
        shards=texts(content.get("shards")),
        files=tuple(_file(item) for item in mappings(content.get("files"))),
        incomplete=texts(content.get("incomplete")),
    )


def _file(item: Mapping[str, Any]) -> ModelFile:
    return ModelFile(
        name=str(item.get("name", "")),
        size=whole_or_none(item.get("size")),
        digest=text_or_none(item.get("digest")),
        broken=str(item.get("broken") or ""),
    )
