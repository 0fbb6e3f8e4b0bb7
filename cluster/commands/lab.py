"""`clusterctl lab up|down|status`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from cluster.errors import EXIT_DONE, EXIT_NO
from cluster.lab import environment, lifecycle, model
from cluster.lab.lab_inventory import inventory_text
from cluster.lab.lifecycle import HostStatus
from cluster.lab.rootfs import give_to_caller
from cluster.lab.spec import LabSpec


def lab_up(spec: LabSpec, output: Path) -> int:
    """Bring the hosts up and write the inventory that reaches them."""
    environment.check_machine(spec)
    if spec.engine and spec.model is None and not model.is_prepared(model.default_target()):
        print("preparing the small model, once", flush=True)
        model.prepare(model.default_target())
    lab = lifecycle.up(spec)
    output.write_text(inventory_text(lab))
    give_to_caller(output)
    first, last = lab.hosts[0], lab.hosts[-1]
    print(f"lab {lab.name!r} is up: {first.name} ({first.address}) to {last.name} ({last.address})")
    print(f"ssh -i {lab.client_key} -o UserKnownHostsFile={lab.known_hosts} root@{first.address}")
    print(f"clusterctl up {output}")
    return EXIT_DONE


def lab_model(output: Path | None) -> int:
    """Convert the small model once and say where it is."""
    print(model.prepare(output or model.default_target()))
    return EXIT_DONE


def lab_down(name: str) -> int:
    """Take the lab down; nothing to take down is no error."""
    print(f"lab {name!r} is gone" if lifecycle.down(name) else f"there is no lab {name!r}")
    return EXIT_DONE


def lab_status(name: str, as_json: bool = False) -> int:
    """Show every host; 0 only if all of them are healthy."""
    hosts = lifecycle.status(name)
    if as_json:
        print(json.dumps({"lab": name, "hosts": [asdict(host) for host in hosts]}, indent=2))
    else:
        _print_table(hosts)
    return EXIT_DONE if all(host.sshd and host.engine is not False for host in hosts) else EXIT_NO


def _print_table(hosts: tuple[HostStatus, ...]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for title in ("host", "address", "running", "sshd", "engine", "containers"):
        table.add_column(title)
    for host in hosts:
        engine = "none" if host.engine is None else _yes(host.engine)
        containers = "" if host.containers is None else str(host.containers)
        table.add_row(host.name, host.address, _yes(host.running), _yes(host.sshd), engine, containers)
    Console().print(table)


def _yes(value: bool) -> str:
    return "up" if value else "down"
