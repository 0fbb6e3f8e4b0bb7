"""Where SSH goes: the node over the inventory over ~/.ssh/config over the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from samples import inventory

from cluster.ssh_target import Target, target_of

CONFIG: dict[str, Mapping[str, object]] = {
    "10.0.0.12": {
        "hostname": "gpu-02.internal",
        "port": "2022",
        "user": "carol",
        "identityfile": ["~/.ssh/a", "~/.ssh/b"],
        "userknownhostsfile": "/k1 /k2",
    },
    "behind": {"proxyjump": "carol@bastion:2200, inner"},
    "inner": {"hostname": "10.9.9.9", "user": "dave"},
    "proxied": {"proxycommand": "nc %h %p"},
    "no-proxy": {"proxyjump": "none", "proxycommand": "none"},
}


def target(changes: dict[str, Any] | None = None, node: int = 0) -> Target:
    changed = inventory({"ssh": {}, **(changes or {})})
    return target_of(changed.ssh, changed.nodes[node], lambda host: CONFIG.get(host, {}), "alice")


def test_defaults() -> None:
    assert target() == Target(
        "10.0.0.11", 22, "alice", known_hosts=("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")
    )
    assert str(target()) == "alice@10.0.0.11:22"


def test_ssh_config_is_honoured() -> None:
    assert target(node=1) == Target(
        host="gpu-02.internal",
        port=2022,
        user="carol",
        identity_files=("~/.ssh/a", "~/.ssh/b"),
        known_hosts=("/k1", "/k2", "/etc/ssh/ssh_known_hosts"),
    )


def test_the_inventory_wins_over_ssh_config_and_the_node_over_the_inventory() -> None:
    ssh = {"user": "ops", "port": 2222, "identity_file": "/id", "known_hosts": "/k", "connect_timeout": 3.0}
    found = target({"ssh": ssh, "nodes.1.ssh": {"port": 2223, "host_key_policy": "accept-new"}}, node=1)
    assert found == Target(
        host="gpu-02.internal",
        port=2223,
        user="ops",
        identity_files=("/id",),
        known_hosts=("/k",),
        accept_new=True,
        timeout=3.0,
    )


def test_a_name_for_ssh_alone() -> None:
    assert target({"nodes.0.ssh": {"host": "gpu-01.mgmt"}}).host == "gpu-01.mgmt"


def places(found: Target) -> list[str]:
    return [str(jump) for jump in found.jumps]


@pytest.mark.parametrize(
    ("ssh", "jumps"),
    [
        ({"jump": ["bob@bastion:2200"]}, ["bob@bastion:2200"]),
        ({"jump": ["bastion"]}, ["alice@bastion:22"]),
        ({"jump": ["bastion"], "user": "ops", "port": 2222}, ["ops@bastion:22"]),
        ({"jump": ["bastion", "inner"], "user": "ops"}, ["ops@bastion:22", "dave@10.9.9.9:22"]),
        ({"host": "behind"}, ["carol@bastion:2200", "dave@10.9.9.9:22"]),
        ({"host": "behind", "jump": ["other"]}, ["alice@other:22"]),
        ({"host": "no-proxy"}, []),
    ],
    ids=str,
)
def test_jump_hosts(ssh: dict[str, Any], jumps: list[str]) -> None:
    assert places(target({"ssh": ssh})) == jumps


def test_a_jump_host_has_no_jump_hosts_of_its_own_and_takes_the_key() -> None:
    (jump,) = target({"ssh": {"jump": ["bastion"], "identity_file": "/id"}}).jumps
    assert (jump.jumps, jump.identity_files) == ((), ("/id",))


def test_a_proxy_command_counts_where_there_is_no_jump_host() -> None:
    assert target({"ssh": {"host": "proxied"}}).proxy_command == "nc %h %p"
    assert target({"ssh": {"host": "proxied", "jump": ["bastion"]}}).proxy_command is None
    assert target({"ssh": {"host": "no-proxy"}}).proxy_command is None
