"""Where and as whom SSH goes: the inventory over ~/.ssh/config over the defaults. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cluster.errors import ConnectionLost
from cluster.inventory import SSH, Node

# What `ssh -G` would say of a host: the lower-case keywords of ssh_config(5).
Lookup = Callable[[str], Mapping[str, object]]


@dataclass(frozen=True)
class Target:
    """One end of one SSH connection."""

    host: str
    port: int
    user: str
    identity_files: tuple[str, ...] = ()
    known_hosts: tuple[str, ...] = ()
    accept_new: bool = False
    timeout: float = 10.0
    jumps: tuple[Target, ...] = ()
    proxy_command: str | None = None

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"


def target_of(inventory_ssh: SSH, node: Node, lookup: Lookup, user: str) -> Target:
    """The target of a node; `user` is who runs clusterctl, for whom nobody is named."""
    ssh = inventory_ssh.model_copy(update={key: getattr(node.ssh, key) for key in node.ssh.model_fields_set})
    target = _resolve(ssh.host or node.address, ssh, lookup, user)
    jumps = ssh.jump or _proxy_jump(lookup(ssh.host or node.address))
    return Target(
        **{
            **target.__dict__,
            "jumps": tuple(_jump(spec, ssh, lookup, user) for spec in jumps),
            "proxy_command": None if jumps else target.proxy_command,
        }
    )


def _resolve(name: str, ssh: SSH, lookup: Lookup, user: str) -> Target:
    config = lookup(name)
    return Target(
        host=str(config.get("hostname", name)),
        port=ssh.port or _port(name, config),
        user=ssh.user or str(config.get("user", user)),
        identity_files=(ssh.identity_file,) if ssh.identity_file else _strings(config.get("identityfile")),
        known_hosts=(ssh.known_hosts,) if ssh.known_hosts else _known_hosts(config),
        accept_new=ssh.host_key_policy == "accept-new",
        timeout=ssh.connect_timeout,
        proxy_command=_not_none(config.get("proxycommand")),
    )


def _port(name: str, config: Mapping[str, object]) -> int:
    written = str(config.get("port", 22))
    if not written.isdecimal():
        raise ConnectionLost(f"~/.ssh/config: Port {written} of {name} is no number")
    return int(written)


def _jump(spec: str, ssh: SSH, lookup: Lookup, user: str) -> Target:
    """`[user@]host[:port]`; what it leaves out: the jump host's own configuration, then the inventory."""
    at, _, place = spec.rpartition("@")
    host, _, port = place.partition(":")
    own = {"user": at or None, "port": int(port) if port.isdigit() else None}
    config = lookup(host)
    if own["user"] is None and "user" not in config:
        own["user"] = ssh.user
    return _resolve(host, ssh.model_copy(update={**own, "host": None, "jump": ()}), lookup, user)


def _proxy_jump(config: Mapping[str, object]) -> tuple[str, ...]:
    value = _not_none(config.get("proxyjump"))
    return tuple(part.strip() for part in value.split(",")) if value else ()


def _known_hosts(config: Mapping[str, object]) -> tuple[str, ...]:
    written = str(config.get("userknownhostsfile", "")).split()
    return (*(written or ("~/.ssh/known_hosts",)), "/etc/ssh/ssh_known_hosts")


def _strings(value: object) -> tuple[str, ...]:
    if isinstance(value, list | tuple):
        return tuple(str(item) for item in value)
    return (str(value),) if value else ()


def _not_none(value: object) -> str | None:
    text = str(value) if value else ""
    return text if text and text.lower() != "none" else None
