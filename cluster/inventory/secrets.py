"""Secrets from the operator's environment or files, read before anything is contacted."""

from __future__ import annotations

import os
from pathlib import Path

from cluster.errors import Complaint, InventoryError
from cluster.inventory.model import Inventory, SecretSource
from cluster.steps import Secret

Secrets = tuple[tuple[str, Secret], ...]


def read_secrets(inventory: Inventory, file: str) -> Secrets:
    """(name, value) of every secret. Raises InventoryError for each that is not there."""
    complaints, values = [], []
    for name, source in inventory.secrets.items():
        value, what = _read(source)
        if what:
            complaints.append(Complaint(None, f"secrets.{name}", what))
        values.append((name, Secret(value)))
    if complaints:
        raise InventoryError(file, complaints)
    return tuple(values)


def _read(source: SecretSource) -> tuple[str, str | None]:
    """(value, why it cannot be used)."""
    if source.env is not None:
        value = os.environ.get(source.env, "")
        missing = f"the environment variable {source.env} is not set"
    else:
        file = Path(source.file or "").expanduser()
        try:
            value = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            return "", f"cannot read {file}: {getattr(error, 'strerror', None) or 'not text'}"
        missing = f"{file} is empty"
    if not value:
        return "", missing
    if any(character in value for character in "\n\r\0"):
        return "", "a secret of more than one line cannot be an environment variable"
    return value, None
