"""What can be wrong with a host's cable and with the network behind it, set from outside the host.

It works on a host that is frozen or off, stays over its reboot, and goes with the lab's namespaces. The host
sees what a machine sees: no carrier, or nothing at all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

from cluster.lab import processes, slow_cable
from cluster.lab.processes import NAMESPACES, run
from cluster.lab.spec import Host, Lab

NOBODY = "02:00:00:00:00:00"  # locally administered, and no interface's
OPERATOR = "operator"
PLAIN = (0.0, 0.0)  # no delay, no loss
BURST = ("burst", "64kb", "latency", "100ms")


def plug(lab: Lab, host: Host) -> None:
    """Both ends up, the host's with its route: the kernel forgets those of an interface that goes down."""
    _ip(lab.switch, "link", "set", host.name, "up")
    _ip(host.name, "link", "set", "eth0", "up")
    _ip(host.name, "route", "replace", "default", "via", host.gateway)


def unplug(lab: Lab, host: Host) -> None:
    """The host loses its carrier: connections hang, nothing is refused."""
    _ip(lab.switch, "link", "set", host.name, "down")


def is_plugged(lab: Lab, host: Host) -> bool:
    (port,) = json.loads(_ip(lab.switch, "-json", "link", "show", host.name))
    return "UP" in port["flags"]


def part(lab: Lab, host: Host, others: Iterable[str]) -> None:
    """Two neighbours that believe each other at an address that is nobody's: what they send gets lost."""
    for other in others:
        for namespace, address in _ends(lab, host, other):
            _neighbour(lab, namespace, "replace", address, "lladdr", NOBODY, "nud", "permanent")


def join(lab: Lab, host: Host) -> None:
    """No partition from anybody."""
    for other in (OPERATOR, *(other.name for other in lab.hosts if other != host)):
        for namespace, address in _ends(lab, host, other):
            if address in _parted(lab, namespace):
                _neighbour(lab, namespace, "del", address)


def narrow(lab: Lab, host: Host, rate: str) -> None:
    """A token bucket at each end of the cable; `rate` in tc's words, `100mbit`."""
    for namespace, device in ((host.name, "eth0"), (lab.switch, host.name)):
        run(("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", "tbf", "rate", rate, *BURST))


def widen(lab: Lab, host: Host) -> None:
    for namespace, device in ((host.name, "eth0"), (lab.switch, host.name)):
        run(("tc", "-n", namespace, "qdisc", "del", "dev", device, "root"), check=False)


def spoil(lab: Lab, host: Host, delay: float | None = None, loss: float | None = None) -> None:
    """`delay` in seconds on top of each round trip, half of it in each direction; `loss` 0 to 1 in each.

    None: as it is. Where neither is left the cable is the plain one again.
    """
    now = _spoilt(lab, host)
    wanted = (now[0] if delay is None else delay, now[1] if loss is None else loss)
    processes.end(_programs(lab, host))
    if wanted == PLAIN:
        _put_back(lab, host)
        return
    _cut(lab, host)
    log = host.boot_log.with_name("cable.log")
    program = (sys.executable, "-I", slow_cable.__file__, *_pair(host), *map(str, (wanted[0] / 2, wanted[1])))
    processes.run_behind(("nsenter", f"--net={NAMESPACES / lab.switch}", *program), log)


def _cut(lab: Lab, host: Host) -> None:
    """The host's port is off the bridge, and another one is on it in its place."""
    _, behind = _pair(host)
    if _exists(lab, behind):
        return
    _ip(lab.switch, "link", "add", behind, "type", "veth", "peer", "name", _bridged(host))
    _ip(lab.switch, "link", "set", host.name, "nomaster")
    _ip(lab.switch, "link", "set", _bridged(host), "master", "bridge", "up")
    _ip(lab.switch, "link", "set", behind, "up")


def _put_back(lab: Lab, host: Host) -> None:
    _, behind = _pair(host)
    if _exists(lab, behind):
        _ip(lab.switch, "link", "del", behind)
    _ip(lab.switch, "link", "set", host.name, "master", "bridge")


def _pair(host: Host) -> tuple[str, str]:
    """What the program joins: the host's port, and the end of a cable whose other end is on the bridge."""
    return host.name, f"{host.name}-a"


def _bridged(host: Host) -> str:
    return f"{host.name}-b"


def _exists(lab: Lab, device: str) -> bool:
    return run(("ip", "-n", lab.switch, "link", "show", device), check=False).returncode == 0


def _spoilt(lab: Lab, host: Host) -> tuple[float, float]:
    """(delay, loss) as the running program was told."""
    told = next((processes.words(pid)[-2:] for pid in _programs(lab, host)), None)
    return PLAIN if told is None else (2 * float(told[0]), float(told[1]))


def _programs(lab: Lab, host: Host) -> list[int]:
    inside = processes.members([lab.switch])[lab.switch]
    return [pid for pid in inside if processes.words(pid)[-4:-2] == _pair(host)]


def _ends(lab: Lab, host: Host, other: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """(namespace, address that is not to be reached from there), of both; the operator's namespace is ``."""
    if other == OPERATOR:
        return ("", host.address), (host.name, lab.operator_address)
    peer = next(one for one in lab.hosts if one.name == other)
    return (peer.name, host.address), (host.name, peer.address)


def _neighbour(lab: Lab, namespace: str, *what: str) -> str:
    inside = ("-n", namespace) if namespace else ()
    return run(("ip", *inside, "neigh", *what, "dev", "eth0" if namespace else lab.link)).stdout


def _parted(lab: Lab, namespace: str) -> list[str]:
    inside = ("-n", namespace) if namespace else ()
    device = "eth0" if namespace else lab.link
    shown = run(("ip", *inside, "-json", "neigh", "show", "dev", device, "nud", "permanent")).stdout
    return [entry["dst"] for entry in json.loads(shown or "[]") if entry.get("lladdr") == NOBODY]


def _ip(namespace: str, *words: str) -> str:
    return run(("ip", "-n", namespace, *words)).stdout
