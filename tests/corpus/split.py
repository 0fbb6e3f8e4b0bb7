"""Which cases nobody may tune signatures on: decided by the name alone, before anything was measured."""

from __future__ import annotations

import zlib


def held_out(name: str) -> bool:
    """About a third of the names, the same ones for ever."""
    return zlib.crc32(name.encode()) % 3 == 0
