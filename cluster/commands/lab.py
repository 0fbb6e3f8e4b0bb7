"""`clusterctl lab up|down|status|model`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from cluster import console
from cluster.errors import EXIT_DONE, EXIT_NO, UsageError
from cluster.lab import environment, faults, lifecycle, model
from cluster.lab.lab_inventory import inventory_text
from cluster.lab.lifecycle import HostStatus
from cluster.lab.rootfs import give_to_caller
from cluster.lab.spec import LabSpec

STYLES = {"up": "green", "down": "bold red"}


def lab_up(spec: LabSpec, output: Path) -> int:
    """Bring the hosts up and write the inventory that reaches them. Raises LabError."""
    environment.check_machine(spec)
    if spec.engine and spec.model is None and not model.is_prepared(model.default_target()):
        console.say("preparing the small model, once")
        model.prepare(model.default_target())
    lab = lifecycle.up(spec)
    output.write_text(inventory_text(lab))
    give_to_caller(output)
    first, last = lab.hosts[0], lab.hosts[-1]
    console.say(f"lab {lab.name!r} is up: {first.name} ({first.address}) to {last.name} ({last.address})")
    console.say(f"ssh -i {lab.client_key} -o UserKnownHostsFile={lab.known_hosts} root@{first.address}")
    console.say(f"clusterctl up {output}")
    return EXIT_DONE


def lab_model(output: Path | None) -> int:
    """Convert the small model once and say where it is. Raises LabError."""
    console.say(str(model.prepare(output or model.default_target())))
    return EXIT_DONE


def lab_down(name: str) -> int:
    """Take the lab down; nothing to take down is no error."""
    console.say(f"lab {name!r} is gone" if lifecycle.down(name) else f"there is no lab {name!r}")
    return EXIT_DONE


def lab_fault(
    name: str, node: str, kind: str | None, value: str, apart_from: tuple[str, ...], clear: bool
) -> int:
    """Break something of a host, or mend it. Raises LabError, UsageError."""
    lab = lifecycle.find(name)
    if clear:
        faults.clear(lab, node, kind)
        console.say(f"{node}: {kind or 'every fault'} cleared")
        return EXIT_DONE
    if kind is None:
        raise UsageError(f"which fault? one of {', '.join(faults.KINDS)}; or --clear")
    faults.inject(lab, node, kind, value, apart_from)
    words = [kind, *([value] if value else []), *(f"from {one}" for one in apart_from)]
    console.say(
        f"{node}: {' '.join(words)}; mend it: clusterctl lab fault {node} {kind} --clear --name {name}"
    )
    return EXIT_DONE


def lab_status(name: str, as_json: bool = False) -> int:
    """Show every host; 0 only if all of them are healthy. Raises LabError."""
    hosts = lifecycle.status(name)
    if as_json:
        console.emit({"lab": name, "hosts": [asdict(host) for host in hosts]})
    else:
        titles = ("host", "address", "running", "sshd", "engine", "containers")
        console.table(titles, [_row(host) for host in hosts], STYLES)
    return EXIT_DONE if all(host.sshd and host.engine is not False for host in hosts) else EXIT_NO


def _row(host: HostStatus) -> tuple[str, ...]:
    engine = "none" if host.engine is None else _state(host.engine)
    containers = "" if host.containers is None else str(host.containers)
    return host.name, host.address, _state(host.running), _state(host.sshd), engine, containers


def _state(up: bool) -> str:
    return "up" if up else "down"
