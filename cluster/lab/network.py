"""Makes and removes the lab's namespaces and cables."""

from __future__ import annotations

from ipaddress import IPv4Network

from cluster.errors import LabError
from cluster.lab import addresses
from cluster.lab.processes import NAMESPACES, run
from cluster.lab.spec import Lab


def used_networks() -> list[IPv4Network]:
    return addresses.networks_of_routes(run(("ip", "-json", "-4", "route", "show", "table", "all")).stdout)


def check_names_free(lab: Lab) -> None:
    """Before anything is written down as ours: what is there already belongs to somebody else."""
    for name in lab.namespaces:
        if (NAMESPACES / name).exists():
            raise LabError(
                f"the network namespace {name} exists and no lab in {lab.directory.parent} made it",
                f"choose another --name, or remove it: `ip netns del {name}`",
            )


def make(lab: Lab) -> None:
    _batch(addresses.cables(lab))
    _batch(addresses.bridge(lab), lab.switch)
    for host in lab.hosts:
        _batch(addresses.interfaces(lab, host), host.name)


def remove(lab: Lab) -> None:
    """Whatever of it is there. The link would go by itself, but a moment after its namespace."""
    run(("ip", "link", "del", lab.link), check=False)
    for name in lab.namespaces:
        if (NAMESPACES / name).exists():
            run(("ip", "netns", "del", name))


def _batch(commands: str, namespace: str | None = None) -> None:
    inside = ("-n", namespace) if namespace else ()
    run(("ip", *inside, "-batch", "-"), stdin=commands)
