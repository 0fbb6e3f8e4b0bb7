"""Facts about the node under the engine: interfaces, ports, our files."""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import IPv4Interface
from typing import Any

from cluster.facts.hardware import Interface
from cluster.steps import Result

INTERFACES = """\
printf 'addr show\\nlink show\\nroute show default\\n' | ip -o -4 -batch - 2>/dev/null ||
  { ip -o -4 addr show; ip -o link show; ip -4 route show default; }
grep -H . /sys/class/net/*/address /sys/class/net/*/speed 2>/dev/null
:"""
# The kernel takes 10 ms to list all sockets in /proc.
LISTENING = "ss -ltnH 2>/dev/null || cat /proc/net/tcp /proc/net/tcp6"


def parse_interfaces(result: Result) -> dict[str, Any]:
    """From `ip -o -4 addr`, `ip -o link`, /sys/class/net and `ip -4 route show default`."""
    text = result.stdout
    addresses: dict[str, tuple[str, ...]] = {}
    for name, address in re.findall(r"^\d+:\s+([^\s@:]+)\S*\s+inet\s+([\d.]+)", text, re.MULTILINE):
        addresses[name] = (*addresses.get(name, ()), address)
    networks = _networks(text)
    links = {name: (flags, mtu, mac) for name, flags, mtu, mac in LINK.findall(text)}
    found = {
        name: Interface(
            addresses=addresses[name],
            mtu=int(links[name][1]) if name in links else None,
            up=name not in links or _is_up(links[name][0]),
            speed=_speed(text, name, links[name][2]) if name in links else None,
            networks=networks.get(name, ()),
        )
        for name in addresses
    }
    route = re.search(r"^default\b.*\bdev (\S+)", text, re.MULTILINE)
    return {"interfaces": found, "default_route": route[1] if route else None}


def _networks(text: str) -> dict[str, tuple[str, ...]]:
    """{interface: the networks of its addresses, each once}."""
    found: dict[str, tuple[str, ...]] = {}
    for name, address in re.findall(r"^\d+:\s+([^\s@:]+)\S*\s+inet\s+([\d.]+/\d{1,2})\b", text, re.MULTILINE):
        with suppress(ValueError):
            network = str(IPv4Interface(address).network)
            found[name] = tuple(dict.fromkeys((*found.get(name, ()), network)))
    return found


def _is_up(flags: str) -> bool:
    """UP is what was asked for; without a carrier nothing passes."""
    words = flags.split(",")
    return "UP" in words and "NO-CARRIER" not in words


LINK = re.compile(
    r"^\d+:\s+([^\s@:]+)\S*\s+<([A-Z_,0-9-]*)>.*?\bmtu (\d{1,7})\b(?:.*?\blink/\S+ ([0-9a-f:]+))?",
    re.MULTILINE,
)


def _speed(text: str, name: str, mac: str) -> int | None:
    """Mb/s; /sys may show another network namespace than `ip`, so the interface has to be the same one."""
    folder = rf"^/sys/class/net/{re.escape(name)}"
    same = mac and re.search(rf"{folder}/address:{mac}$", text, re.MULTILINE)
    speed = re.search(rf"{folder}/speed:([0-9]{{1,7}})$", text, re.MULTILINE)
    return int(speed[1]) if same and speed else None


def parse_listening(result: Result) -> dict[str, Any]:
    """TCP ports from `ss -ltnH`, or those in state LISTEN (0A) of /proc/net/tcp and tcp6."""
    named = re.findall(r"^LISTEN\s+\d+\s+\d+\s+\S*:(\d{1,5})\s", result.stdout, re.MULTILINE)
    ports = re.findall(
        r"^\s*\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4} 0A ", result.stdout, re.MULTILINE
    )
    return {"listening": frozenset([*(int(port) for port in named), *(int(port, 16) for port in ports)])}


def parse_files(result: Result) -> dict[str, Any]:
    """{path below the cluster's folder: sha256}."""
    return {
        "files": {
            path: digest for digest, path in re.findall(r"^([0-9a-f]{64})  \./(.+)$", result.stdout, re.M)
        }
    }


def parse_ignored(result: Result) -> dict[str, Any]:
    """Ids of the problems that `up --ignore` passed over, one a line."""
    if result.exit_code != 0:
        return {}
    return {"ignored": tuple(line.strip() for line in result.stdout.splitlines() if line.strip())}
