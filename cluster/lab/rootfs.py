"""Writes what a host has of its own: the root file system it boots into, and the lab's keys."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import Executor
from pathlib import Path

from cluster.lab import files, image
from cluster.lab.environment import program
from cluster.lab.processes import run
from cluster.lab.spec import Host, Lab

DIRECTORIES = (
    "dev",
    "proc",
    "sys",
    "run",
    "old",
    "etc/ssh",
    "etc/lab",
    "var/lib/docker",
    "var/log",
    "var/empty",
)
PRIVATE = ("root", "root/.ssh")
SHARED_BY_USERS = ("tmp", "var/tmp")


def write_all(lab: Lab, threads: Executor) -> None:
    """Every host has a key of its own; the operator has one for all of them, and knows all of theirs."""
    client_key = make_key(lab.client_key)
    server_keys = list(threads.map(lambda host: write(lab, host, client_key), lab.hosts))
    addresses = (host.address for host in lab.hosts)
    lab.known_hosts.write_text(files.known_hosts(dict(zip(addresses, server_keys, strict=True))))
    for path in (lab.client_key, lab.known_hosts):
        give_to_caller(path)


def write(lab: Lab, host: Host, client_key: str) -> str:
    """One host's root file system; returns its public key."""
    _directories(lab, host.root)
    links, _ = image.system_directories()
    for path, target in {**links, "var/run": "/run"}.items():
        (host.root / path).symlink_to(target)
    for path, content in {**image.system_files(), **_own_files(lab, host, client_key)}.items():
        (host.root / path).write_bytes(content)
    for path in ("etc/lab/init", "etc/lab/sshd", "etc/lab/engine"):
        (host.root / path).chmod(0o755)
    (host.root / "root/.ssh/authorized_keys").chmod(0o600)
    host.boot_script.write_text(files.boot_script(host, lab.shares))
    return make_key(host.root / "etc/ssh/ssh_host_ed25519_key")


def make_key(path: Path) -> str:
    run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.parent.name, "-f", str(path)))
    return path.with_name(f"{path.name}.pub").read_text()


def give_to_caller(path: Path) -> None:
    """Under sudo the file is for the person who called it: OpenSSH takes no key that it cannot read."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if uid.isdigit() and gid.isdigit():
        shutil.chown(path, int(uid), int(gid))


def _own_files(lab: Lab, host: Host, client_key: str) -> dict[str, bytes]:
    engine = files.dockerd_argv("dockerd", f"/{lab.cgroup}/{host.name}")
    texts = {
        "etc/hostname": f"{host.name}\n",
        "etc/hosts": files.etc_hosts(lab),
        "etc/resolv.conf": "# the lab has no way out\n",
        "etc/ssh/sshd_config": files.SSHD_CONFIG,
        "etc/lab/init": files.init_script(host),
        "etc/lab/sshd": files.sshd_script(program("sshd")),
        "etc/lab/engine": files.engine_script(engine),
        "root/.ssh/authorized_keys": client_key,
    }
    return {path: text.encode() for path, text in texts.items()}


def _directories(lab: Lab, root: Path) -> None:
    for path in DIRECTORIES:
        (root / path).mkdir(parents=True)
    for path in PRIVATE:
        (root / path).mkdir(mode=0o700)
    for path in SHARED_BY_USERS:
        (root / path).mkdir()
        (root / path).chmod(0o1777)  # mkdir's mode is narrowed by the umask
    for share in lab.shares:
        (root / share.lstrip("/")).mkdir(parents=True, exist_ok=True)
