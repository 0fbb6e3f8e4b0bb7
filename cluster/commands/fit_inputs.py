"""Where a model's config.json is on this machine, and the exact bytes of its weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.fit import FitError
from cluster.inventory import Inventory
from cluster.inventory.spares import members

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# A header of safetensors is some hundred bytes a tensor.
LARGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class ModelFiles:
    """What is known of a model without its weights. index_bytes: of all tensors in the checkpoint."""

    config: Mapping[str, Any]
    index_bytes: int | None


def read_files(config: Path, index: Path | None = None) -> ModelFiles:
    """A config.json, and the index beside it or given. Raises FitError: what cannot be read."""
    if config.is_dir():
        config = config / "config.json"
    return ModelFiles(_mapping(config), _total(index or config.with_name(INDEX), index is not None))


def find_files(inventory: Inventory, index: Path | None = None) -> ModelFiles:
    """The files of the inventory's model, if this machine has them: its folder, a mount's, Hugging Face's
    cache. `index` in place of the one beside config.json.

    Raises FitError, which says what to do, where it has none of them.
    """
    source = inventory.model.source
    for folder in _folders(inventory):
        if (folder / "config.json").is_file():
            return read_files(folder / "config.json", index)
    cached = None if source.startswith(("/", ".", "~")) else _cached(source, inventory.model.revision)
    if cached:
        return read_files(cached, index)
    raise FitError(
        f"model.source: {source}: its config.json is not on this machine; "
        "copy it and model.safetensors.index.json from the model's folder or page, and give it with --config"
    )


def _folders(inventory: Inventory) -> Iterator[Path]:
    source = inventory.model.source
    yield Path(source).expanduser()
    for mount in (*inventory.runtime.mounts, *members(inventory)[0].mounts):
        outside, inside = mount.split(":")[:2]
        inside = inside.rstrip("/")
        if source == inside or source.startswith(f"{inside}/"):
            yield Path(outside + source.removeprefix(inside))


def _cached(source: str, revision: str | None) -> Path | None:
    """From Hugging Face's cache in the home folder, without asking the network."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    try:
        found = try_to_load_from_cache(source, "config.json", revision=revision)
    except ValueError:  # HFValidationError: the source is no name of a repository
        return None
    return Path(found) if isinstance(found, str) else None


def _total(index: Path, named: bool) -> int | None:
    """metadata.total_size; with a single file of weights, what it holds. None where there is neither."""
    if index.is_file() or named:
        metadata = _mapping(index).get("metadata")
        total = metadata.get("total_size") if isinstance(metadata, Mapping) else None
        if isinstance(total, float) and total.is_integer():
            total = int(total)
        if isinstance(total, int) and not isinstance(total, bool) and total > 0:
            return total
        if named:
            raise FitError(f"{index}: it has no metadata.total_size")
        return None
    return _single(index.with_name(SINGLE))


def _single(weights: Path) -> int | None:
    """The bytes of the tensors in one .safetensors file: all but its header (8 bytes of length, JSON)."""
    try:
        with weights.open("rb") as opened:
            header = int.from_bytes(opened.read(8), "little")
        size = weights.stat().st_size - 8 - header
    except OSError:
        return None
    return size if 0 < header <= LARGEST_HEADER and size > 0 else None


def _mapping(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise FitError(f"{file}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise FitError(f"{file}: it is not JSON") from None
    if not isinstance(content, dict):
        raise FitError(f"{file}: expected a mapping")
    return content
