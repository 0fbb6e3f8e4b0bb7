"""Faults of a lab's hosts by name: each can be put on, and cleared; `lab down` works with any of them on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cluster.errors import UsageError
from cluster.lab import cables, host, inside
from cluster.lab.cables import OPERATOR
from cluster.lab.spec import Host, Lab

HOME = "/root"
DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s)")
SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
SHARE = re.compile(r"(\d+(?:\.\d+)?)%")
RATE = re.compile(r"\d+(?:\.\d+)?[kmg]?bit")
SKEW = re.compile(r"([+-]\d+)(s|m|h|d)")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True)
class Kind:
    """`value` is an example of what it takes, `` where it takes nothing."""

    put: Callable[[Lab, Host, str], None]
    clear: Callable[[Lab, Host], None]
    value: str = ""
    default: str = ""


def inject(lab: Lab, node: str, kind: str, value: str = "", apart_from: tuple[str, ...] = ()) -> None:
    """Put a fault on a host; `apart_from` names nodes, or `operator`, and is for `partition` alone.

    Raises UsageError where there is no such node, or the value is none, and LabError where it did not work.
    """
    target = find(lab, node)
    if apart_from:
        if kind != "partition":
            raise UsageError(f"{kind} is from nobody: --from is for partition")
        cables.part(lab, target, _others(lab, target, apart_from))
        return
    known = KINDS[kind]
    given = value or known.default
    if known.value and not given:
        raise UsageError(f"{kind} needs a value, such as {known.value}")
    if value and not known.value:
        raise UsageError(f"{kind} takes no value")
    known.put(lab, target, given)


def clear(lab: Lab, node: str, kind: str | None = None) -> None:
    """Take a fault off a host, or all of them; one that is not on is no error."""
    target = find(lab, node)
    for name, known in KINDS.items():
        if kind in (None, name):
            known.clear(lab, target)


def find(lab: Lab, node: str) -> Host:
    """The host of a name. Raises UsageError."""
    found = next((one for one in lab.hosts if one.name == node), None)
    if found is None:
        names = ", ".join(one.name for one in lab.hosts)
        raise UsageError(f"lab {lab.name!r} has no node {node!r}; it has {names}")
    return found


def reboot(lab: Lab, target: Host) -> None:
    """Off and on again: every process gone, the disk as it was, another boot id; its services start again."""
    plugged = cables.is_plugged(lab, target)
    _power_off(lab, target, "")
    if plugged:
        _power_on(lab, target)
    else:
        host.start(target)
        host.wait_for_boot(target)


def _power_off(lab: Lab, target: Host, _: str) -> None:
    """Unplugged too: the kernel would answer for a host without processes, and refuse."""
    cables.unplug(lab, target)
    host.power_off(target)


def _power_on(lab: Lab, target: Host) -> None:
    if host.init_pid(target) is None:
        cables.plug(lab, target)
        host.boot(target)


def _part_from_all(lab: Lab, target: Host, _: str) -> None:
    cables.part(lab, target, _others(lab, target, ()))


def _others(lab: Lab, target: Host, names: tuple[str, ...]) -> tuple[str, ...]:
    """Without names: from all other nodes, and the operator still reaches it."""
    if not names:
        return tuple(one.name for one in lab.hosts if one != target)
    for name in names:
        if name != OPERATOR:
            find(lab, name)
        if name == target.name:
            raise UsageError(f"{name} cannot be parted from itself")
    return names


def parse_duration(text: str) -> float:
    """`100ms` in seconds. Raises UsageError."""
    found = DURATION.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} is no time: such as 100ms, 2s, 500us")
    return float(found[1]) * SECONDS[found[2]]


def parse_share(text: str) -> float:
    """`10%` as 0.1. Raises UsageError."""
    found = SHARE.fullmatch(text)
    if found is None or float(found[1]) > 100:
        raise UsageError(f"{text!r} is no share: such as 10%, at most 100%")
    return float(found[1]) / 100


def parse_rate(text: str) -> str:
    """A rate in tc's words. Raises UsageError."""
    if not RATE.fullmatch(text) or not text.strip("0.kmgbit"):
        raise UsageError(f"{text!r} is no rate: such as 100mbit, 1gbit")
    return text


def parse_skew(text: str) -> str:
    """`+5m` in date's words, `+5 minutes`. Raises UsageError."""
    found = SKEW.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} is no skew: such as +300s, -5m, +1h")
    return f"{found[1]} {UNITS[found[2]]}"


# In the order in which all are cleared: what is off or cut off is asked for nothing before it is back.
KINDS: Mapping[str, Kind] = {
    "power-off": Kind(_power_off, _power_on),
    "link-down": Kind(lambda lab, at, _: cables.unplug(lab, at), cables.plug),
    "partition": Kind(_part_from_all, cables.join),
    "latency": Kind(
        lambda lab, at, value: cables.spoil(lab, at, delay=parse_duration(value)),
        lambda lab, at: cables.spoil(lab, at, delay=0.0),
        value="100ms",
    ),
    "loss": Kind(
        lambda lab, at, value: cables.spoil(lab, at, loss=parse_share(value)),
        lambda lab, at: cables.spoil(lab, at, loss=0.0),
        value="10%",
    ),
    "bandwidth": Kind(
        lambda lab, at, value: cables.narrow(lab, at, parse_rate(value)), cables.widen, value="100mbit"
    ),
    "freeze": Kind(
        lambda _, at, value: inside.freeze(at, value), lambda _, at: inside.thaw(at), value="sshd"
    ),
    "kill": Kind(
        lambda _, at, value: inside.kill(at, value), lambda _, at: inside.restart_services(at), value="engine"
    ),
    "fill-disk": Kind(
        lambda _, at, value: inside.fill_disk(at, value),
        lambda _, at: inside.empty_disk(at),
        value="/tmp",
        default=HOME,
    ),
    "skew-clock": Kind(
        lambda _, at, value: inside.skew_clock(at, parse_skew(value)),
        lambda _, at: inside.set_clock_right(at),
        value="+300s",
    ),
    "reboot": Kind(lambda lab, at, _: reboot(lab, at), _power_on),
}
