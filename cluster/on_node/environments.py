"""What Ray's and vLLM's processes here were started with, and NCCL's logs of them, as one JSON object.

    python3 environments.py FOLDER [NAME...] [--wait SECONDS]

FOLDER holds the files env and network.env. Where there is no such process it waits for one: a node that went
away and came back is alive to Ray's GCS for up to 15 s by what it was before.

    {"host": HOSTNAME, "names": [...], "network_env": {NAME: VALUE} or null,
     "processes": [{"pid", "kind": "ray" | "server" | "engine" | "rank", "what": TITLE,
                    "environment": {...} or null}],
     "logs": [{"pid", "size", "cut": whether more was written, "gzip": BASE64}]}

It runs where Ray's and vLLM's processes are to be seen: in their container, or beside them, and then it looks
at those alone that bear the same mark as itself. Only variables that the two files and the arguments name,
and those of NCCL, Gloo, TensorPipe and UCX, are told, and of these none whose name speaks of a secret. A user
and password in a URL are taken out of a value; a variable that is planned with them is not among `names`.

/proc/PID/environ is what a process was started with: what it sets later is not in it, NCCL's own log is (all
that its environment says to it, when it starts). A process that writes its title over its environment, as
setproctitle does unless SPT_NOENV is set, has none left: null.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from .packed_log import packed
else:  # as a program on a node
    sys.dont_write_bytecode = True  # nothing is left beside it
    from packed_log import packed

# Of a process of the engine `process`; the folder of all of a cluster is the one above the one it names.
MARK = "CLUSTERCTL_PROCESS"
ALWAYS = re.compile(r"(NCCL|GLOO|TP_SOCKET|UCX)_|(RAY_ADDRESS|VLLM_HOST_IP)$")
# NCCL_IB_PKEY is a partition key of InfiniBand: a number that everybody may know.
SECRET = re.compile(r"TOKEN|SECRET|PASS|PWD|CREDENTIAL|AUTH|(?<!IB_P)KEY", re.IGNORECASE)
IN_URL = re.compile(r"(://)[^\s/?#]+@")
# NCCL's channels come early in its log; a debug level of TRACE can write gigabytes after them.
MOST_LOG_BYTES = 4 * 1024 * 1024
MOST_BYTES = 64 * 1024 * 1024
POLL_S = 0.1
# vLLM names its processes in their titles; "VLLM" is the default of VLLM_PROCESS_NAME_PREFIX.
TITLE = re.compile(r"[^\s:/]+::(Worker|EngineCore|DPCoordinator|APIServer)\S*")
KIND_OF_TITLE = {"Worker": "rank", "EngineCore": "engine", "DPCoordinator": "engine", "APIServer": "server"}
# Ray's title of an actor is its class, and vLLM's ranks are actors: RayWorkerProc, or an older class.
RANK = re.compile(r"ray::(RayWorkerProc|RayWorkerWrapper|RayWorkerVllm|vllm_Worker_)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Print the environment of Ray's and vLLM's processes as JSON."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="for the first process")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.wait
    answer = found(arguments.folder, arguments.names)
    while not answer["processes"] and time.monotonic() < deadline:
        time.sleep(POLL_S)  # there is no event for "a process that is not our child began"
        answer = found(arguments.folder, arguments.names)
    print(json.dumps(answer))


def found(folder: Path, names: list[str]) -> dict[str, Any]:
    network_env = variables_in(folder / "network.env")
    planned = {**dict.fromkeys(names, ""), **(variables_in(folder / "env") or {}), **(network_env or {})}
    told = {name for name in planned if not SECRET.search(name)}
    compared = {name for name in told if not IN_URL.search(planned[name])}
    environments = {pid: environment_of(pid) for pid in all_pids()}
    looked_at = {pid: kind_and_title(pid) for pid, there in environments.items() if is_ours(there)}
    ours = {pid: kind for pid, kind in looked_at.items() if kind is not None}
    return {
        "host": socket.gethostname(),
        "names": sorted(compared),
        "network_env": to_tell(network_env, told),
        "processes": [
            {"pid": pid, "kind": kind, "what": title, "environment": to_tell(environments[pid], told)}
            for pid, (kind, title) in sorted(ours.items())
        ],
        "logs": logs({pid: environments[pid] or {} for pid in ours}),
    }


def variables_in(file: Path) -> dict[str, str] | None:
    """NAME=value lines; None: there is no such file."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {name: value for name, _, value in pairs}


# --- processes --------------------------------------------------------------------------------------


def all_pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and int(entry) != os.getpid()]


def environment_of(pid: int) -> dict[str, str] | None:
    """None: it is gone, not ours to read, or has overwritten it."""
    try:
        blob = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    items = blob.decode("utf-8", "replace").split("\0")
    pairs = (item.partition("=") for item in items if "=" in item)
    return {name: value for name, _, value in pairs} or None


def is_ours(environment: dict[str, str] | None) -> bool:
    """In a container all are; with the engine `process` those of the same folder."""
    own = os.environ.get(MARK)
    if own is None:
        return True
    return environment is not None and os.path.dirname(environment.get(MARK, "")) == os.path.dirname(own)


def kind_and_title(pid: int) -> tuple[str, str] | None:
    """What a process is to Ray or vLLM; None: neither's, or nothing that NCCL's traffic depends on."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
    words = [word for word in line.split("\0") if word]
    if not words:
        return None
    title = TITLE.match(words[0])
    if title:
        return KIND_OF_TITLE[title[1]], title[0].rpartition("::")[2]
    if words[0].startswith("ray::"):
        return "rank" if RANK.match(words[0]) else "ray", words[0]
    if os.path.basename(words[0]) == "raylet":
        return "ray", "raylet"
    return ("server", "vLLM's API server") if is_server(words) else None


def is_server(words: list[str]) -> bool:
    """`python3 -m vllm.entrypoints.openai.api_server`, or `python3 /usr/local/bin/vllm serve`."""
    if not os.path.basename(words[0]).startswith(("python", "vllm")):
        return False
    programs = [os.path.basename(word) for word in words[:2]]
    if "vllm" in programs:
        return "serve" in words[: programs.index("vllm") + 2]
    return words[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]


def to_tell(environment: dict[str, str] | None, names: set[str]) -> dict[str, str] | None:
    if environment is None:
        return None
    return {
        name: IN_URL.sub(r"\1[redacted]@", value)
        for name, value in sorted(environment.items())
        if name in names or (ALWAYS.match(name) and not SECRET.search(name))
    }


# --- NCCL's logs ------------------------------------------------------------------------------------


def logs(environments: dict[int, dict[str, str]]) -> list[dict[str, Any]]:
    """The file that NCCL_DEBUG_FILE names for each living process, where it is there."""
    files = {
        log_file(environment["NCCL_DEBUG_FILE"], pid): pid
        for pid, environment in environments.items()
        if environment.get("NCCL_DEBUG_FILE")
    }
    left, told = MOST_BYTES, []
    for path, pid in sorted(files.items()):
        most = min(left, MOST_LOG_BYTES)
        log = packed(Path(path), most)
        if log is not None:
            told.append({"pid": pid, **log})
            left -= min(most, log["size"])
    return told


def log_file(pattern: str, pid: int) -> str:
    """As NCCL makes a name of it (debug.cc): %h is the hostname up to a dot, %p the process, %% a %."""
    values = {"h": socket.gethostname().partition(".")[0], "p": str(pid), "%": "%"}
    return re.sub("%(.)", lambda found: values.get(found[1], found[0]), pattern)


if __name__ == "__main__":
    main()
