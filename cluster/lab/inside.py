"""What can be wrong inside a host: services and containers killed or frozen, a full disk, a wrong clock."""

from __future__ import annotations

from signal import SIGCONT, SIGSTOP

from cluster.errors import LabError
from cluster.lab import host, processes
from cluster.lab.spec import Host

# With the sessions of sshd: lines that are open break or hang, as the new ones. OpenSSH 9.8 split it up.
PROGRAMS = {"sshd": ("sshd", "sshd-session", "sshd-auth"), "engine": ("dockerd", "containerd")}
LONGEST_COPY = 64 << 10  # KiB that fill_disk copies into memory
DISK = "lab-full"  # the source that its mount names

# What was in the folder is in a file system of its own that has no room; what is mounted below it stays
# (of the operator's machine, and never copied). `$1` is the folder.
FILL = f"""\
set -eu
if grep -q "^{DISK} $1 " /proc/self/mounts; then exit 0; fi
mkdir -p /run/below /run/{DISK}
mount --bind "$1" /run/below
size=$(du -sk /run/below | cut -f1)
if [ "$size" -gt {LONGEST_COPY} ]; then
  umount /run/below
  echo "$1 holds $size KiB, and {LONGEST_COPY} are the most that is copied into memory" >&2
  exit 1
fi
mount -t tmpfs -o "mode=0700,size=$((size + 1024))k" {DISK} /run/{DISK}
cp -a /run/below/. /run/{DISK}
umount /run/below
cut -d' ' -f2 /proc/self/mounts | {{ grep "^$1/" || :; }} | while read -r mounted; do
  mount --bind "$mounted" "/run/{DISK}${{mounted#"$1"}}"
done
mount --rbind /run/{DISK} "$1"
umount -l /run/{DISK}
cat /dev/zero >"$1/.{DISK}" 2>/dev/null || :
"""
# What was written or removed meanwhile is written and removed in the folder below.
EMPTY = f"""\
set -eu
{{ grep "^{DISK} " /proc/self/mounts || :; }} | cut -d' ' -f2 | while read -r folder; do
  rm -f "$folder/.{DISK}"
  mkdir -p /run/below /run/{DISK}
  mount --bind "$folder" /run/{DISK}
  umount -l "$folder"
  mount --bind "$folder" /run/below
  (cd /run/below && find . -mindepth 1 -depth) | while read -r path; do
    if [ ! -e "/run/{DISK}/$path" ] && [ ! -L "/run/{DISK}/$path" ]; then rm -rf "/run/below/${{path:?}}"; fi
  done
  cp -a /run/{DISK}/. /run/below
  umount /run/below /run/{DISK}
done
"""
# All namespaces share one clock, so it is `date` that is wrong; it is all that clusterctl reads of a clock.
SKEW = """\
set -eu
place=$(readlink -f "$(command -v date)")
if [ ! -e /run/right-date ]; then cp "$place" /run/right-date; fi
printf '#!/bin/sh\\nexec /run/right-date -d "now %s" "$@"\\n' "$1" >/run/wrong-date
chmod 755 /run/wrong-date
if ! grep -q " $place " /proc/self/mounts; then mount --bind /run/wrong-date "$place"; fi
"""
SET_RIGHT = """\
place=$(readlink -f "$(command -v date)")
if grep -q " $place " /proc/self/mounts; then umount "$place"; fi
"""


def kill(target: Host, what: str) -> None:
    """SIGKILL to sshd, the engine, or a container of a name; returns when they are gone."""
    processes.end(_of(target, what))


def freeze(target: Host, what: str) -> None:
    """SIGSTOP to all processes of sshd, the engine or a container: connections open, and nobody answers."""
    processes.send(_of(target, what), SIGSTOP)


def thaw(target: Host) -> None:
    processes.send(_members(target), SIGCONT)


def restart_services(target: Host) -> None:
    """sshd and the engine, where they do not run."""
    if not _named(target, PROGRAMS["sshd"][:1]):
        host.start_sshd(target)
    if target.engine and not _named(target, PROGRAMS["engine"][:1]):
        host.start_engine(target)


def fill_disk(target: Host, folder: str) -> None:
    """No byte is left in a folder: a copy in memory takes its place, no real disk is filled."""
    _sh(target, FILL, folder)


def empty_disk(target: Host) -> None:
    _sh(target, EMPTY)


def skew_clock(target: Host, by: str) -> None:
    """`by` as date(1) takes it: `+300 seconds`."""
    _sh(target, SKEW, by)


def set_clock_right(target: Host) -> None:
    _sh(target, SET_RIGHT)


def _of(target: Host, what: str) -> list[int]:
    found = _named(target, PROGRAMS[what]) if what in PROGRAMS else _in_container(target, what)
    if not found:
        raise LabError(f"{what} does not run on {target.name}")
    return found


def _named(target: Host, names: tuple[str, ...]) -> list[int]:
    """Of the host's own process namespace: a container may run an sshd too."""
    inside = _members(target)
    init = processes.init_pid(inside)
    if init is None:
        raise LabError(
            f"{target.name} is off", "`clusterctl lab fault NODE power-off --clear` switches it on"
        )
    return [pid for pid in processes.together(inside, init) if processes.program(pid) in names]


def _in_container(target: Host, name: str) -> list[int]:
    """By its control group: vLLM's container shares the process namespace of Ray's."""
    shown = host.run(target, "docker", "inspect", "--type", "container", "--format", "{{.Id}}", name)
    if shown.returncode:
        names = host.run(target, "docker", "ps", "--format", "{{.Names}}").stdout.split()
        raise LabError(
            f"{target.name} has no container {name!r}",
            f"There are: {', '.join(names) or 'none'}; or sshd, engine",
        )
    container = shown.stdout.strip()
    return [pid for pid in _members(target) if container in processes.control_groups(pid)]


def _members(target: Host) -> list[int]:
    return processes.members([target.name])[target.name]


def _sh(target: Host, script: str, *words: str) -> None:
    done = host.run(target, "sh", "-c", script, "sh", *words)
    if done.returncode:
        raise LabError(f"{target.name}: {done.stderr.strip() or done.stdout.strip()}")
