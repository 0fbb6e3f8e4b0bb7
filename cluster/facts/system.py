"""Facts about the operating system: release, clock, memory, the node's own name, disks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cluster.facts.hardware import Disk, System
from cluster.facts.text import whole_or_none
from cluster.steps import Result

CLOCK = "date +%s.%N"
# Seconds: as long as clocks differ by no more, the logs of all nodes can be put in order.
MOST_SKEW = 2.0

# Built-ins of the shell where they will do: many nodes are asked at once, and a lab has them all on one CPU.
SYSTEM = """\
[ -r /etc/os-release ] && . /etc/os-release && echo "os=$PRETTY_NAME"
read -r _ _ kernel _ </proc/version && echo "kernel=$kernel"
read -r boot_id </proc/sys/kernel/random/boot_id && echo "boot_id=$boot_id"
name=$(hostname) && echo "hostname=$name"
getent ahostsv4 "$name" | while read -r address _; do echo "resolves_to=$address"; done
while read -r key value _; do
  case $key in MemTotal: | MemAvailable:) echo "$key=$value" ;; esac
done </proc/meminfo
command -v python3 >/dev/null && echo "python=$(command -v python3)"
command -v getenforce >/dev/null && echo "selinux=$(getenforce)"
:"""

HUGGING_FACE = '"${HF_HOME:-$HOME/.cache/huggingface}"'


# A path that is not there yet would lie where the nearest folder above it does.
EXISTING = """\
existing() {
  path=$1
  while [ -n "$path" ] && [ ! -e "$path" ]; do path=${path%/*}; done
}
"""


def disks_of(paths: Mapping[str, str]) -> str:
    """The command for {use: path, quoted for sh}: a line with the uses, and then df's line of each."""
    found = "\n".join(f'existing {path}; set -- "$@" "${{path:-/}}"' for path in paths.values())
    return f'{EXISTING}set --\n{found}\necho "uses={" ".join(paths)}"\ndf -Pk -- "$@"'


def parse_clock_began(result: Result) -> dict[str, Any]:
    """`date +%s.%N` before all other commands."""
    return {"clock_began": _seconds(result.stdout)}


def parse_clock_ended(result: Result) -> dict[str, Any]:
    """`date +%s.%N` after all other commands."""
    return {"clock_ended": _seconds(result.stdout)}


def _seconds(text: str) -> float | None:
    """A date that knows no nanoseconds prints an N."""
    found = re.search(r"^([0-9]{1,12})(\.[0-9]{1,9})?", text, re.MULTILINE)
    return float(found[1] + (found[2] or "")) if found else None


def clock_offset(asked: float, answered: float, began: float, ended: float) -> tuple[float, float]:
    """(seconds that a node's clock is ahead, how far off that may be), from one round trip.

    `asked` and `answered` are the operator's clock around it, `began` and `ended` the node's own within: as
    in NTP (RFC 5905, section 8), the truth lies between the two extremes of the network's delay.
    """
    most, least = began - asked, ended - answered
    return (most + least) / 2, abs(most - least) / 2


def parse_system(result: Result) -> dict[str, Any]:
    """`key=value` lines; unknown ones are passed over."""
    pairs = re.findall(r"^([A-Za-z_]+):?=(.*)$", result.stdout, re.MULTILINE)
    one = {key: value.strip() for key, value in reversed(pairs)}
    if not one:
        return {}
    addresses = tuple(dict.fromkeys(value for key, value in pairs if key == "resolves_to"))
    return {
        "system": System(
            os=one.get("os", ""),
            kernel=one.get("kernel", ""),
            boot_id=one.get("boot_id", ""),
            hostname=one.get("hostname", ""),
            resolves_to=addresses,
            memory_total=_kibibytes(one.get("MemTotal")),
            memory_available=_kibibytes(one.get("MemAvailable")),
            python=one.get("python"),
            selinux=one.get("selinux", ""),
        )
    }


def _kibibytes(text: str | None) -> int | None:
    number = whole_or_none(text)
    return None if number is None else number * 1024


DISK = re.compile(r"^\S.*?\s(\d{1,18})\s+\d{1,18}\s+(-?\d{1,18})\s+(?:\d+%|-)\s+(/.*)$", re.MULTILINE)


def parse_disks(result: Result) -> dict[str, Any]:
    """What the disks are for, and in this order df's lines; nothing where they are not as many."""
    uses = re.search(r"^uses=(.*)$", result.stdout, re.MULTILINE)
    names, lines = (uses[1].split() if uses else []), DISK.findall(result.stdout)
    if len(names) != len(lines):
        return {}
    return {
        "disks": tuple(
            Disk(use, path, max(0, int(free)) * 1024, int(total) * 1024)
            for use, (total, free, path) in zip(names, lines, strict=True)
        )
    }


def disks_command(paths: Mapping[str, str]) -> str:
    """As `disks_of`, with the places that every node has."""
    return disks_of({"home": '"$HOME/.clusterctl"', "tmp": "/tmp", **paths})
