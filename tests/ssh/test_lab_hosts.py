"""Two real hosts without an engine, reached by the OpenSSH client."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import LabError
from cluster.lab import environment, host, lifecycle, network, processes, state
from cluster.lab.spec import BASE, Host, Lab, LabSpec

NAME = f"t-{os.getpid()}"
SPEC = LabSpec(NAME, nodes=2, engine=False)


def reason_to_skip() -> str:
    try:
        environment.check_machine(SPEC)
    except LabError as error:
        return str(error)
    return ""


SKIP = reason_to_skip()
pytestmark = [pytest.mark.ssh, pytest.mark.skipif(bool(SKIP), reason=SKIP or "never")]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    yield lifecycle.up(SPEC)
    lifecycle.down(NAME)


def ssh(lab: Lab, target: Host, command: str) -> subprocess.CompletedProcess[str]:
    options = (
        f"IdentityFile={lab.client_key}",
        f"UserKnownHostsFile={lab.known_hosts}",
        "IdentitiesOnly=yes",
    )
    strict = (*options, "StrictHostKeyChecking=yes", "BatchMode=yes", "ConnectTimeout=2")
    flags = (flag for option in strict for flag in ("-o", option))
    argv = ["ssh", "-F", "/dev/null", *flags, f"root@{target.address}", command]
    return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20)


@pytest.fixture
def name() -> Iterator[str]:
    """For a lab of the test's own, which is gone afterwards whatever happens."""
    name = f"u-{os.getpid()}"
    yield name
    lifecycle.down(name)


def traces(name: str) -> dict[str, list[str]]:
    """Everything on this machine that says the lab's name."""
    links = processes.run(("ip", "-brief", "link")).stdout.splitlines()
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    cgroups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/clab-{name}")]
    return {
        "namespaces": [path.name for path in Path("/run/netns").glob(f"{name}-*")],
        "links": [line for line in links if f"clab-{name}" in line],
        "mounts": [line for line in mounts if name in line],
        "processes": processes_that_say(str(BASE / name)),
        "cgroups": cgroups,
        "files": [str(path) for path in BASE.glob(name)],
    }


def processes_that_say(text: str) -> list[str]:
    found = processes.run(("ps", "-ww", "-eo", "pid=,args=")).stdout.splitlines()
    return [line for line in found if text in line]


def test_a_host_has_a_name_a_home_and_an_address_of_its_own(lab: Lab) -> None:
    for target in lab.hosts:
        said = ssh(lab, target, "hostname; pwd; cat /sys/class/net/eth0/operstate; echo $PPID; ls ~")
        name, home, link, parent = said.stdout.split()
        assert (name, home, link) == (target.name, "/root", "up"), said.stderr
        assert int(parent) < 1000, "process ids are its own"


def test_hosts_reach_one_another_by_name(lab: Lab) -> None:
    first, second = lab.hosts
    command = f"import socket; print(socket.create_connection(('{second.name}', 22), 5).recv(4))"
    assert host.run(first, sys.executable, "-c", command).stdout.strip() == "b'SSH-'"


def test_what_one_host_writes_no_other_sees(lab: Lab) -> None:
    first, second = lab.hosts
    ssh(lab, first, "touch /tmp/here /run/here /root/here /dev/shm/here /etc/here")
    seen = ssh(lab, second, "ls /tmp/here /run/here /root/here /dev/shm/here /etc/here")
    assert seen.stdout == ""
    assert not Path("/tmp/here").exists()
    assert not Path("/run/here").exists()


def test_this_machines_own_programs_are_read_only(lab: Lab) -> None:
    assert "Read-only file system" in ssh(lab, lab.hosts[0], "touch /usr/here").stderr


def test_each_host_has_a_key_of_its_own_and_it_is_checked(lab: Lab) -> None:
    second = lab.hosts[1]
    keys = [line.split()[2] for line in lab.known_hosts.read_text().splitlines()]
    assert len(set(keys)) == 2
    swapped = lab.directory / "swapped"
    swapped.write_text(f"{second.address} ssh-ed25519 {keys[0]}\n")
    argv = ("ssh", "-F", "/dev/null", "-o", f"UserKnownHostsFile={swapped}", "-o", "BatchMode=yes")
    refused = processes.run((*argv, "-i", str(lab.client_key), f"root@{second.address}", "true"), check=False)
    assert refused.returncode == 255
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in refused.stderr


def test_a_pulled_cable_hangs_and_a_stopped_sshd_refuses(lab: Lab) -> None:
    target = lab.hosts[1]
    host.link_down(target)
    assert not host.sshd_answers(target, timeout=0.2)
    host.link_up(target)
    assert ssh(lab, target, "ip route show default").stdout.startswith(f"default via {target.gateway}")
    host.stop_sshd(target)
    assert "Connection refused" in ssh(lab, target, "true").stderr
    host.start_sshd(target)
    assert ssh(lab, target, "true").returncode == 0


def test_status_sees_what_is_so(lab: Lab) -> None:
    host.stop_sshd(lab.hosts[0])
    assert [one.sshd for one in lifecycle.status(NAME)] == [False, True]
    host.start_sshd(lab.hosts[0])
    assert [one.sshd for one in lifecycle.status(NAME)] == [True, True]


def test_a_second_up_of_the_same_shape_is_the_same_lab_and_another_shape_is_refused(lab: Lab) -> None:
    assert lifecycle.up(SPEC) == lab
    with pytest.raises(LabError, match="already up"):
        lifecycle.up(replace(SPEC, nodes=3))


def test_a_second_lab_has_a_network_of_its_own(lab: Lab, name: str) -> None:
    other = lifecycle.up(replace(SPEC, name=name, nodes=1))
    assert other.subnet != lab.subnet
    lifecycle.down(name)
    assert all(one.sshd for one in lifecycle.status(NAME))


def test_down_leaves_nothing_and_can_be_repeated(name: str) -> None:
    lab = lifecycle.up(replace(SPEC, name=name))
    marker = f"6{os.getpid()}"
    host.run(lab.hosts[0], "sh", "-c", f"setsid --fork sleep {marker} >/dev/null 2>&1")
    assert len(processes_that_say(f"sleep {marker}")) == 1
    before = traces(name)
    assert before["namespaces"]
    assert before["links"]
    assert before["processes"]
    assert before["files"]
    assert lifecycle.down(name)
    assert not any(traces(name).values()), traces(name)
    assert not processes_that_say(f"sleep {marker}")
    assert not lifecycle.down(name)
    with pytest.raises(LabError, match="there is no lab"):
        lifecycle.status(name)


@pytest.mark.parametrize("made", ["state", "network", "host"])
def test_down_after_an_up_that_was_killed(name: str, made: str) -> None:
    lab = lifecycle.up(replace(SPEC, name=name))
    if made != "host":
        processes.kill_all(lab.namespaces)
    if made == "state":
        network.remove(lab)
    assert lifecycle.down(name)
    assert not any(traces(name).values()), traces(name)


def test_a_foreign_namespace_is_not_ours_to_remove(name: str) -> None:
    processes.run(("ip", "netns", "add", f"{name}-01"))
    try:
        with pytest.raises(LabError, match=r"no lab in .* made it"):
            lifecycle.up(replace(SPEC, name=name))
        assert Path(f"/run/netns/{name}-01").exists()
        assert state.read(name) is None
    finally:
        processes.run(("ip", "netns", "del", f"{name}-01"))


def test_a_host_that_does_not_boot_says_why_and_leaves_nothing(name: str) -> None:
    shares = (*lifecycle._design(SPEC, BASE).shares, "/no/such/directory")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lifecycle.environment, "shares", lambda _: shares)
        with pytest.raises(LabError, match=r"(?s)last lines of boot\.log.*/no/such/directory"):
            lifecycle.up(replace(SPEC, name=name))
    assert not any(traces(name).values()), traces(name)
