"""The head of a log, packed to travel inside a JSON object."""

from __future__ import annotations

import base64
import gzip
import os
from pathlib import Path
from typing import Any


def packed(log: Path, most: int) -> dict[str, Any] | None:
    """`size`, the bytes of the whole; `cut`, whether more was written than is here; `gzip`, base64 of at most
    the first `most` bytes. None: it cannot be read.
    """
    try:
        with log.open("rb") as file:
            head = file.read(most)
            size = os.fstat(file.fileno()).st_size
    except OSError:
        return None
    content = base64.b64encode(gzip.compress(head, mtime=0)).decode()
    return {"size": size, "cut": size > len(head), "gzip": content}
