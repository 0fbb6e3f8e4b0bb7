from ipaddress import IPv4Network
from pathlib import Path

import pytest

from cluster.lab import addresses
from cluster.lab.spec import Lab

pytestmark = pytest.mark.unit

LAB = Lab("lab", 1, 1, True, "10.231.7.0/24", Path("/x/lab"))


def test_cables() -> None:
    assert addresses.cables(LAB).splitlines() == [
        "netns add lab-sw",
        "netns add lab-01",
        "link add clab-lab type veth peer name operator netns lab-sw",
        "address add 10.231.7.1/24 dev clab-lab",
        "link set clab-lab up",
        "link add eth0 netns lab-01 type veth peer name lab-01 netns lab-sw",
    ]


def test_bridge() -> None:
    assert addresses.bridge(LAB).splitlines() == [
        "link add bridge type bridge",
        "link set bridge up",
        "link set operator master bridge up",
        "link set lab-01 master bridge up",
    ]


def test_interfaces_of_a_host() -> None:
    assert addresses.interfaces(LAB, LAB.hosts[0]).splitlines() == [
        "link set lo up",
        "address add 10.231.7.11/24 dev eth0",
        "link set eth0 up",
        "route add default via 10.231.7.1",
    ]


def test_networks_of_routes() -> None:
    routes = '[{"dst":"default"},{"dst":"192.0.2.0/24"},{"type":"local","dst":"10.231.0.1"}]'
    assert addresses.networks_of_routes(routes) == [IPv4Network("192.0.2.0/24"), IPv4Network("10.231.0.1/32")]


def test_a_machine_without_routes() -> None:
    assert addresses.networks_of_routes("") == []
