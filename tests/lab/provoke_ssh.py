"""SSH, refused in every way that OpenSSH's own client and server can."""

from __future__ import annotations

import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from cluster.lab import host
from cluster.lab.spec import Host
from tests.lab.cases import case
from tests.lab.stage import Stage


def ssh(stage: Stage, node: Host, *options: str) -> bool:
    """OpenSSH's client; keeps what it says. An option that is given wins over the usual one."""
    argv = (
        *("ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "IdentitiesOnly=yes"),
        *options,
        *("-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={stage.lab.known_hosts}"),
        *("-o", f"IdentityFile={stage.lab.client_key}", f"root@{node.address}", "docker ps"),
    )
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    stage.save(node, "ssh", done.stderr or done.stdout)
    return done.returncode == 0


def new_key(stage: Stage) -> str:
    key = stage.lab.directory / "other_key"
    key.unlink(missing_ok=True)
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)), check=True)
    return str(key)


@case("ssh with a key that the worker does not know", "ssh-auth-denied", node=2)
def ssh_wrong_key(stage: Stage) -> None:
    ssh(stage, stage.head)
    usual = stage.lab.client_key.read_text()
    stage.lab.client_key.write_text(Path(new_key(stage)).read_text())
    try:
        ssh(stage, stage.worker)
    finally:
        stage.lab.client_key.write_text(usual)


@case("ssh with a private key of mode 0644", "ssh-key-perms", node=2)
def ssh_key_readable_by_all(stage: Stage) -> None:
    ssh(stage, stage.head)
    stage.lab.client_key.chmod(0o644)
    try:
        ssh(stage, stage.worker)
    finally:
        stage.lab.client_key.chmod(0o600)


@case("known_hosts has another key for the worker's address", "ssh-host-key-changed", node=2)
def ssh_host_key_changed(stage: Stage) -> None:
    ssh(stage, stage.head)
    other = stage.lab.directory / "known_hosts_other"
    new_key(stage)
    public = (stage.lab.directory / "other_key.pub").read_text()
    other.write_text(f"{stage.worker.address} {' '.join(public.split()[:2])}\n")
    ssh(stage, stage.worker, "-o", f"UserKnownHostsFile={other}")


@case("known_hosts has no key for the worker, strict checking", "ssh-host-key-unknown", node=2)
def ssh_host_key_unknown(stage: Stage) -> None:
    ssh(stage, stage.head)
    ssh(stage, stage.worker, "-o", "UserKnownHostsFile=/dev/null")


@case("sshd of the worker is stopped", "ssh-unreachable", node=2)
def ssh_refused(stage: Stage) -> None:
    host.stop_sshd(stage.worker)
    try:
        ssh(stage, stage.head)
        ssh(stage, stage.worker)
    finally:
        host.start_sshd(stage.worker)


@case("the worker's cable is pulled: nobody answers for its address", "ssh-unreachable", node=2)
def ssh_no_route(stage: Stage) -> None:
    ssh(stage, stage.head)
    host.link_down(stage.worker)
    try:
        ssh(stage, stage.worker)
    finally:
        host.link_up(stage.worker)


@case("a name that no resolver knows; the client runs where there is no resolver", "ssh-dns", node=2)
def ssh_name_unknown(stage: Stage) -> None:
    ssh(stage, stage.head)
    done = stage.sh(stage.head, "ssh -o BatchMode=yes root@gpu-o2.cluster.invalid docker ps")
    stage.save(stage.worker, "ssh", done.stderr)


@case(
    "150 connections that do not authenticate are held open to the worker's sshd (MaxStartups 10:30:100)",
    "ssh-maxstartups",
    node=2,
)
def ssh_max_startups(stage: Stage) -> None:
    stage.sh(stage.worker, ": >/var/log/sshd.log")
    with ExitStack() as held:
        for _ in range(150):
            held.enter_context(socket.create_connection((stage.worker.address, 22), timeout=5))
        time.sleep(1)
        ssh(stage, stage.head)
        assert not all(ssh(stage, stage.worker) for _ in range(20)), "sshd dropped none"
    stage.save(stage.worker, "sshd", stage.sh(stage.worker, "cat /var/log/sshd.log").stdout)


@case("a port that accepts and never says SSH-2.0 (a stalled sshd)", "ssh-banner-timeout", node=2)
def ssh_no_banner(stage: Stage) -> None:
    listen = "import socket, time; s = socket.create_server(('', 2222)); s.listen(); time.sleep(100)"
    stage.background(stage.worker, f'/usr/bin/python3 -c "{listen}"')
    stage.sh(stage.worker, "timeout 10 sh -c 'until ss -ltnH sport = :2222 | grep -q .; do :; done'")
    ssh(stage, stage.head)
    ssh(stage, stage.worker, "-p", "2222")
