"""Real hosts under a fault: what breaks on them, and what is on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cluster.lab import host
from cluster.lab.spec import Host, Lab
from tests.reallab import docker

# In the place of docker's client: counts what changes something, and fails at one of these calls.
WRAPPER = """\
#!/bin/sh
case $1:$* in
  run:*--detach* | stop:* | rm:*)
    calls=$(($(cat /tmp/docker.calls 2>/dev/null || echo 0) + 1))
    echo "$calls" >/tmp/docker.calls
    read -r number when </tmp/docker.fault
    if [ "$calls" = "$number" ]; then
      [ "$when" = before ] || /tmp/docker.real "$@" >/dev/null
      echo 'docker: an injected failure' >&2
      exit 125
    fi
    ;;
esac
exec /tmp/docker.real "$@"
"""
INSTALL = """\
set -e
docker=$(command -v docker)
cp "$docker" /tmp/docker.real
printf %s "$0" >/tmp/docker.wrapper
chmod 755 /tmp/docker.wrapper
echo 0 before >/tmp/docker.fault
mount --bind /tmp/docker.wrapper "$docker"
"""
FOREIGN = {"foreign": "team=other", "another": "clusterctl.cluster=another"}
SLEEPER = "98765"


def do(target: Host, script: str, *words: str) -> str:
    """The stdout of a script in a host, which must succeed."""
    done = host.run(target, "sh", "-c", script, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def prepare(lab: Lab) -> None:
    """What others have on every host, and the wrapper of docker."""
    for target in lab.hosts:
        mounts = [word for mount in lab.mounts for word in ("--volume", mount)]
        for name, label in FOREIGN.items():
            options = ("run", "--detach", "--name", name, "--label", label, *mounts, "clusterctl-lab:1")
            docker(target, *options, "sleep", SLEEPER)
        do(target, f"setsid --fork sleep {SLEEPER} </dev/null >/dev/null 2>&1")
        do(target, "mkdir -p /root/.clusterctl/another/x && echo mine >/root/.clusterctl/another/x/env")
        do(target, INSTALL, WRAPPER)


def fail_at(target: Host, call: int, when: str) -> None:
    """Docker's client fails at this call (from 1) that changes something; 0: at none."""
    do(target, f"rm -f /tmp/docker.calls; echo {call} {when} >/tmp/docker.fault")


@dataclass(frozen=True)
class Seen:
    """What is on a host: {container: its state}, files of this cluster, listening ports, programs."""

    ours: dict[str, str]
    foreign: dict[str, str]
    files: tuple[str, ...]
    kept: tuple[str, ...]
    others_files: str
    ports: frozenset[str]
    programs: tuple[str, ...]


def see(lab: Lab, target: Host) -> Seen:
    ids = docker(target, "ps", "--all", "--quiet", "--no-trunc").split()
    found: list[dict[str, Any]] = json.loads(docker(target, "inspect", *ids)) if ids else []
    ours = {c["Name"][1:]: c for c in found if c["Config"]["Labels"].get("clusterctl.cluster") == lab.name}
    foreign = {c["Name"][1:]: c for c in found if c["Name"][1:] not in ours}
    listening = do(target, "ss -ltnH | awk '{ print $4 }'").split()
    return Seen(
        {name: c["State"]["Status"] for name, c in ours.items()},
        {name: f"{c['Id']} {c['State']['StartedAt']} {c['State']['Status']}" for name, c in foreign.items()},
        tuple(_files(target, f".clusterctl/{lab.name}")),
        tuple(_files(target, f".local/state/clusterctl/{lab.name}")),
        do(target, "cat /root/.clusterctl/another/x/env"),
        frozenset(address.rpartition(":")[2] for address in listening),
        tuple(_programs(target)),
    )


def _files(target: Host, folder: str) -> Iterator[str]:
    yield from do(target, f"cd /root/{folder} 2>/dev/null && find . -type f || :").split()


def _programs(target: Host) -> Iterator[str]:
    """The command lines of all processes but those that look, and sshd's own.

    A session whose client vanished behind a cut cable lives on until TCP's keepalive, two hours by default.
    """
    for line in do(target, "ps -eo args=").splitlines():
        if "ps -eo args=" not in line and not line.startswith("sshd: "):
            yield line.strip()
