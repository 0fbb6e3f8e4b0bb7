"""Reading one key of a foreign mapping: a plausible value of the right kind, or a reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.fit.reasons import FitError

# No model has a size near it; it keeps products and loops over absurd values small.
MOST = 2**31 - 1


def whole(config: Mapping[str, Any], key: str, default: int | None = None, at_most: int = MOST) -> int:
    """A whole number of at least 1; `default` where the key is missing or null. Raises FitError."""
    value = _present(config, key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= at_most:
        raise FitError(
            f"config.json: {key}: expected a whole number from 1 to {at_most:,}, got {shown(value)}"
        )
    return value


def whole_or_none(config: Mapping[str, Any], key: str) -> int | None:
    """None where the key is missing, null or 0: configs write each of them for "without". Raises FitError."""
    value = config.get(key)
    if value is None or (value == 0 and not isinstance(value, bool)):
        return None
    return whole(config, key)


def yes(config: Mapping[str, Any], key: str, default: bool) -> bool:
    """true or false. Raises FitError."""
    value = _present(config, key, default)
    if not isinstance(value, bool):
        raise FitError(f"config.json: {key}: expected true or false, got {shown(value)}")
    return value


def text(config: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """A piece of text. Raises FitError."""
    value = _present(config, key, default)
    if not isinstance(value, str):
        raise FitError(f"config.json: {key}: expected text, got {shown(value)}")
    return value


def texts(config: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A list of texts; empty where the key is missing or null. Raises FitError."""
    value = config.get(key)
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise FitError(f"config.json: {key}: expected a list of texts, got {shown(value)}")
    return tuple(value)


def section(config: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """A mapping inside, None where the key is missing or null. Raises FitError."""
    value = config.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise FitError(f"config.json: {key}: expected a mapping, got {shown(value)}")
    return value


def shown(value: Any) -> str:
    """A foreign value in a message, short."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**30:
        return "a number of more than 30 digits"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    written = repr(value)
    return written if len(written) <= 60 else f"{written[:57]}..."


def _present(config: Mapping[str, Any], key: str, default: Any) -> Any:
    value = config.get(key)
    if value is not None:
        return value
    if default is None:
        raise FitError(f"config.json: {key}: is missing; take the config.json that lies beside the weights")
    return default
