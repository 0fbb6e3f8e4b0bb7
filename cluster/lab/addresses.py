"""The lab's wiring as `ip -batch` text: one bridge in a namespace of its own, one veth cable to each host.

The bridge has a namespace of its own because a laptop with Docker drops bridged packets: br_netfilter sends
them through iptables' FORWARD chain, whose policy Docker sets to DROP. A fresh namespace has no such rule.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Network

from cluster.lab.spec import Host, Lab


def cables(lab: Lab) -> str:
    """Run in the operator's namespace: makes the namespaces and the cables between them."""
    return _lines(
        *(f"netns add {name}" for name in lab.namespaces),
        f"link add {lab.link} type veth peer name operator netns {lab.switch}",
        f"address add {lab.operator_address}/{lab.network.prefixlen} dev {lab.link}",
        f"link set {lab.link} up",
        *(
            f"link add eth0 netns {host.name} type veth peer name {host.name} netns {lab.switch}"
            for host in lab.hosts
        ),
    )


def bridge(lab: Lab) -> str:
    """Run in the switch's namespace."""
    ports = ("operator", *(host.name for host in lab.hosts))
    return _lines(
        "link add bridge type bridge",
        "link set bridge up",
        *(f"link set {port} master bridge up" for port in ports),
    )


def interfaces(lab: Lab, host: Host) -> str:
    """Run in a host's namespace; the default route makes programs that ask for "my address" find eth0's."""
    return _lines(
        "link set lo up",
        f"address add {host.address}/{lab.network.prefixlen} dev eth0",
        "link set eth0 up",
        f"route add default via {lab.operator_address}",
    )


def networks_of_routes(routes: str) -> list[IPv4Network]:
    """The networks in the output of `ip -json route show table all`."""
    found = (route.get("dst", "default") for route in json.loads(routes or "[]"))
    return [
        IPv4Network(network, strict=False) for network in found if network != "default" and ":" not in network
    ]


def _lines(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)
