"""The text of every file that a host has of its own."""

from __future__ import annotations

import shlex

from cluster.lab.spec import Host, Lab

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSWD = """\
root:*:0:0:root:/root:/bin/sh
sshd:*:100:65534::/run/sshd:/usr/sbin/nologin
nobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
GROUP = """\
root:x:0:
tty:x:5:
docker:x:101:
nogroup:x:65534:
"""
NSSWITCH = """\
passwd: files
group: files
hosts: files dns
"""
# Only what a second sshd beside the machine's own needs; every limit is OpenSSH's default, as on a real host.
SSHD_CONFIG = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile /run/sshd.pid
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
Subsystem sftp internal-sftp
"""


def etc_hosts(lab: Lab) -> str:
    lines = [f"{host.address} {host.name}" for host in lab.hosts]
    return "\n".join(["127.0.0.1 localhost", *lines, ""])


def known_hosts(keys: dict[str, str]) -> str:
    """One line per host; keys is {address: public key}."""
    return "".join(f"{address} {' '.join(key.split()[:2])}\n" for address, key in keys.items())


def boot_script(host: Host, shares: tuple[str, ...]) -> str:
    """What runs first in the new namespaces: gives the host its own root file system and becomes its init.

    A fresh /sys shows the host's own interfaces; the cgroups, which it hides, are bound back for Docker.
    Every boot has a boot id of its own; containers, whose /proc is another, see the machine's.
    """
    root = shlex.quote(str(host.root))
    return f"""\
#!/bin/sh
set -eu
umask 022
root={root}
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
if [ -d /sys/fs/cgroup ]; then mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"; fi
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir "$root/run/sshd"
cat /proc/sys/kernel/random/uuid >"$root/run/boot_id"
mount --bind "$root/run/boot_id" "$root/proc/sys/kernel/random/boot_id"
share() {{
    mount --rbind "$1" "$root$1"
    mount -o remount,bind,ro "$root$1"
}}
{"".join(f"share {shlex.quote(share)}{chr(10)}" for share in shares)}\
echo {host.name} >/proc/sys/kernel/hostname
cd "$root"
mkdir -p old
pivot_root . old
cd /
umount -l /old
rmdir /old
exec /etc/lab/init
"""


def init_script(host: Host) -> str:
    """The host's PID 1: starts the services, reaps orphans, and on SIGTERM stops what it started.

    `wait` for one child reaps every other one too, so nothing stays a zombie.
    """
    engine = "/etc/lab/engine & engine=$!" if host.engine else "engine="
    return f"""\
#!/bin/sh
stop() {{
    kill $(cat /run/sshd.pid /run/docker.pid 2>/dev/null)
    wait $engine
    exit 0
}}
trap stop TERM
/etc/lab/sshd &
{engine}
sleep 2147483647 &
while :; do wait $!; done
"""


def sshd_script(sshd: str) -> str:
    return f"""\
#!/bin/sh
exec {shlex.quote(sshd)} -D -f /etc/ssh/sshd_config -E /var/log/sshd.log </dev/null >>/var/log/sshd.log 2>&1
"""


def engine_script(dockerd: tuple[str, ...]) -> str:
    """The exit code is kept in a file, so that whoever waits for the engine knows at once that it died."""
    return f"""\
#!/bin/sh
rm -f /run/docker.exit
{shlex.join(dockerd)} </dev/null >>/var/log/dockerd.log 2>&1
echo $? >/run/docker.exit
"""


def dockerd_argv(dockerd: str, cgroup_parent: str) -> tuple[str, ...]:
    """No bridge, no iptables: containers use the host's network. A cgroup of its own can be removed."""
    return (
        dockerd,
        "--host=unix:///run/docker.sock",
        "--pidfile=/run/docker.pid",
        "--data-root=/var/lib/docker",
        "--exec-root=/run/docker",
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
        "--ip-masq=false",
        "--ip-forward=false",
        "--userland-proxy=false",
        "--exec-opt=native.cgroupdriver=cgroupfs",
        f"--cgroup-parent={cgroup_parent}",
    )


def enter_argv(namespace: str, script: str) -> tuple[str, ...]:
    """Start a host. Not `ip netns exec`, which remounts /sys and hides the cgroups from Docker.

    setsid forks, so that nobody has to wait for the host and Ctrl-C on a terminal does not reach it.
    """
    return (
        *("setsid", "--fork"),
        *("nsenter", f"--net=/run/netns/{namespace}"),
        *("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"),
        *("/bin/sh", script),
    )
