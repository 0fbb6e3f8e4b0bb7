"""Facts about the node under the engine: GPUs, HCAs, interfaces, ports, our files."""

from __future__ import annotations

import re
from typing import Any

from cluster.steps import Result


def parse_gpus(result: Result) -> dict[str, Any]:
    """One GPU name a line."""
    if result.exit_code != 0:
        return {}
    return {"gpus": tuple(line.strip() for line in result.stdout.splitlines() if line.strip())}


def parse_hcas(result: Result) -> dict[str, Any]:
    """The RDMA devices that the kernel knows."""
    return {"hcas": tuple(result.stdout.split())} if result.exit_code == 0 else {}


def parse_interfaces(result: Result) -> dict[str, Any]:
    """{interface: its IPv4 addresses} from `ip -o -4 addr show`."""
    found: dict[str, tuple[str, ...]] = {}
    for name, address in re.findall(r"^\d+:\s+([^\s@:]+)\S*\s+inet\s+([\d.]+)", result.stdout, re.MULTILINE):
        found[name] = (*found.get(name, ()), address)
    return {"interfaces": found}


def parse_listening(result: Result) -> dict[str, Any]:
    """TCP ports in state LISTEN (0A) from /proc/net/tcp and tcp6."""
    ports = re.findall(
        r"^\s*\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4} 0A ", result.stdout, re.MULTILINE
    )
    return {"listening": frozenset(int(port, 16) for port in ports)}


def parse_files(result: Result) -> dict[str, Any]:
    """{path below the cluster's folder: sha256}."""
    return {
        "files": {
            path: digest for digest, path in re.findall(r"^([0-9a-f]{64})  \./(.+)$", result.stdout, re.M)
        }
    }
