"""Every fault of a lab host is real, and can be taken off again: hosts with sshd alone."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster.errors import LabError, UsageError
from cluster.lab import faults, host, lifecycle, processes
from cluster.lab.spec import Host, Lab
from tests.reallab import clusterctl, reason_to_skip, running_lab

SKIP = reason_to_skip(engine=False)
pytestmark = pytest.mark.skipif(bool(SKIP), reason=SKIP or "never")

DATAGRAMS = 400
# Answers with how many datagrams came, after the one that says that it was the last (sent until it is heard).
COUNT = """\
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as counter:
    counter.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    counter.bind((sys.argv[1], 5555))
    counter.settimeout(20)
    count, said = 0, b""
    while said != b"end":
        said, sender = counter.recvfrom(100)
        count += said == b"one"
    print(count)
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab("q", 3, engine=False) as made:
        yield made


@pytest.fixture
def target(lab: Lab) -> Iterator[Host]:
    yield lab.hosts[0]
    faults.clear(lab, lab.hosts[0].name)
    assert all(one.sshd for one in lifecycle.status(lab.name))


def reaches(source: Host, address: str) -> bool:
    """From one host to another's sshd."""
    program = "import socket, sys; socket.create_connection((sys.argv[1], 22), 0.5)"
    return host.run(source, sys.executable, "-c", program, address).returncode == 0


def shell(target: Host, command: str) -> str:
    done = host.run(target, "sh", "-c", command)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def round_trip(target: Host) -> float:
    """The quickest of five handshakes, in seconds."""
    return min(connect_seconds(target) for _ in range(5))


def connect_seconds(target: Host) -> float:
    started = time.monotonic()
    socket.create_connection((target.address, 22), 10).close()
    return time.monotonic() - started


def arrived(target: Host) -> int:
    """How many of DATAGRAMS from the operator a host counts."""

    with ThreadPoolExecutor(1) as threads, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        counting = threads.submit(host.run, target, sys.executable, "-c", COUNT, target.address)
        until_bound(target)
        for _ in range(DATAGRAMS):
            sender.sendto(b"one", (target.address, 5555))
        while not counting.done():
            sender.sendto(b"end", (target.address, 5555))
            time.sleep(0.05)
    done = counting.result()
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def until_bound(target: Host) -> None:
    end = time.monotonic() + 20
    while ":15B3 " not in shell(target, "cat /proc/net/udp"):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_no_carrier(lab: Lab, target: Host) -> None:
    faults.inject(lab, target.name, "link-down")
    assert shell(target, "cat /sys/class/net/eth0/carrier") == "0"
    assert not host.sshd_answers(target, 0.3)
    faults.clear(lab, target.name, "link-down")
    assert shell(target, "cat /sys/class/net/eth0/carrier") == "1"
    assert host.sshd_answers(target, 5)


def test_a_partition_between_two_and_nobody_else(lab: Lab, target: Host) -> None:
    second, third = lab.hosts[1:]
    assert reaches(target, second.address)
    faults.inject(lab, target.name, "partition", apart_from=(second.name,))
    assert not reaches(target, second.address)
    assert not reaches(second, target.address)
    assert reaches(target, third.address)
    assert reaches(third, target.address)
    assert host.sshd_answers(target)
    faults.clear(lab, target.name, "partition")
    assert reaches(target, second.address)
    assert reaches(second, target.address)


def test_a_partition_from_all_nodes_leaves_the_operator_and_one_from_the_operator_the_nodes(
    lab: Lab, target: Host
) -> None:
    faults.inject(lab, target.name, "partition")
    assert [reaches(target, other.address) for other in lab.hosts[1:]] == [False, False]
    assert host.sshd_answers(target)
    faults.clear(lab, target.name)
    faults.inject(lab, target.name, "partition", apart_from=("operator",))
    assert not host.sshd_answers(target, 0.3)
    assert [reaches(target, other.address) for other in lab.hosts[1:]] == [True, True]


def test_latency_is_added_to_the_round_trip(lab: Lab, target: Host) -> None:
    before = round_trip(target)
    faults.inject(lab, target.name, "latency", "200ms")
    assert before + 0.2 <= round_trip(target) + 0.01
    faults.clear(lab, target.name, "latency")
    assert round_trip(target) < 0.2


def test_loss_and_latency_together_and_one_after_the_other_cleared(lab: Lab, target: Host) -> None:
    assert arrived(target) == DATAGRAMS
    faults.inject(lab, target.name, "latency", "20ms")
    faults.inject(lab, target.name, "loss", "50%")
    assert 0.35 < arrived(target) / DATAGRAMS < 0.65
    assert round_trip(target) >= 0.02
    faults.clear(lab, target.name, "loss")
    assert arrived(target) == DATAGRAMS
    assert round_trip(target) >= 0.02
    faults.clear(lab, target.name, "latency")
    assert processes.members([lab.switch]) == {lab.switch: []}
    assert round_trip(target) < 0.02


def test_much_passes_a_slow_cable_whole(lab: Lab, target: Host) -> None:
    """TCP hands the card 64 KiB at once, and leaves the checksum to it."""
    faults.inject(lab, target.name, "latency", "10ms")
    program = (
        "import socket, sys; s = socket.create_connection((sys.argv[1], 5556)); "
        "s.sendall(bytes(range(256)) * 40_000); s.shutdown(1); s.recv(1)"
    )
    received = bytearray()
    with socket.create_server((lab.operator_address, 5556)) as server, ThreadPoolExecutor(1) as threads:
        sending = threads.submit(host.run, target, sys.executable, "-c", program, lab.operator_address)
        server.settimeout(20)
        connection, _ = server.accept()
        with connection:
            while chunk := connection.recv(1 << 20):
                received += chunk
        assert sending.result().returncode == 0
    assert received == bytes(range(256)) * 40_000


def test_a_narrow_cable(lab: Lab, target: Host) -> None:
    """2 MB in each direction take 1.6 s at 10 Mbit/s; a bucket of 64 KB is full when it begins."""
    faults.inject(lab, target.name, "bandwidth", "10mbit")
    least = (2_000_000 - 100_000) * 8 / 10e6
    assert copy_seconds(lab, target, "cat >/dev/null", bytes(2_000_000)) > least
    assert copy_seconds(lab, target, "head -c 2000000 /dev/zero", b"") > least
    faults.clear(lab, target.name, "bandwidth")
    assert "tbf" not in processes.run(("tc", "-n", target.name, "qdisc", "show")).stdout
    assert "tbf" not in processes.run(("tc", "-n", lab.switch, "qdisc", "show")).stdout


def copy_seconds(lab: Lab, target: Host, command: str, stdin: bytes) -> float:

    options = ("-F", "/dev/null", "-i", str(lab.client_key), "-o", f"UserKnownHostsFile={lab.known_hosts}")
    started = time.monotonic()
    subprocess.run(
        ("ssh", *options, f"root@{target.address}", command), input=stdin, check=True, capture_output=True
    )
    return time.monotonic() - started


def test_a_killed_sshd_refuses_and_a_frozen_one_is_silent(lab: Lab, target: Host) -> None:
    faults.inject(lab, target.name, "kill", "sshd")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((target.address, 22), 1)
    faults.clear(lab, target.name, "kill")
    faults.inject(lab, target.name, "freeze", "sshd")
    socket.create_connection((target.address, 22), 1).close()
    assert not host.sshd_answers(target, 0.3)
    faults.clear(lab, target.name, "freeze")
    assert host.sshd_answers(target, 5)


def test_a_full_home_folder_and_what_it_holds(lab: Lab, target: Host) -> None:
    shell(target, "cd; mkdir -p a/b; echo kept >a/b/kept; echo gone >gone; ln -s nowhere link; chmod 750 a")
    mounts = shell(target, "cat /proc/self/mounts")
    faults.inject(lab, target.name, "fill-disk")
    failed = host.run(target, "sh", "-c", "cd; rm gone; cat a/b/kept; printf %09000d 1 >a/more")
    assert (failed.returncode != 0, failed.stdout) == (True, "kept\n")
    assert int(shell(target, "stat -c %s ~/a/more")) < 9000
    assert shell(target, f"{sys.executable} -c 'print(1)'") == "1", "what is mounted below it stays"
    faults.clear(lab, target.name, "fill-disk")
    assert (
        shell(target, "cd; cat a/b/kept; [ ! -e gone ]; readlink link; stat -c %a a") == "kept\nnowhere\n750"
    )
    assert shell(target, "cat /proc/self/mounts") == mounts


def test_a_folder_too_large_for_memory_is_refused(lab: Lab, target: Host) -> None:
    shell(target, "truncate -s 0 /var/tmp/x; dd if=/dev/zero of=/var/tmp/x bs=1M count=70 2>/dev/null")
    with pytest.raises(LabError, match="are the most that is copied into memory"):
        faults.inject(lab, target.name, "fill-disk", "/var/tmp")
    shell(target, "rm /var/tmp/x")


def test_a_wrong_clock(lab: Lab, target: Host) -> None:
    faults.inject(lab, target.name, "skew-clock", "-2h")
    faults.inject(lab, target.name, "skew-clock", "+1h")
    assert abs(float(shell(target, "date +%s.%N")) - time.time() - 3600) < 60
    faults.clear(lab, target.name, "skew-clock")
    assert abs(float(shell(target, "date +%s.%N")) - time.time()) < 60


def boot_id(target: Host) -> str:
    return shell(target, "cat /proc/sys/kernel/random/boot_id")


def test_a_reboot_ends_every_process_and_keeps_the_disk(lab: Lab, target: Host) -> None:
    before = boot_id(target)
    assert before != boot_id(lab.hosts[1])
    shell(target, "cd; echo kept >kept; touch /run/gone; setsid --fork sleep 654321 >/dev/null 2>&1")
    faults.inject(lab, target.name, "reboot")
    assert host.sshd_answers(target)
    assert boot_id(target) not in (before, boot_id(lab.hosts[1]))
    assert shell(target, "cd; cat kept; ls /run/gone 2>&1 || :").startswith("kept")
    assert not [
        pid for pid in processes.members([target.name])[target.name] if "654321" in processes.words(pid)
    ]
    faults.inject(lab, target.name, "reboot")


def test_a_host_that_is_off_answers_nothing_and_comes_back(lab: Lab, target: Host) -> None:
    before = boot_id(target)
    faults.inject(lab, target.name, "power-off")
    with pytest.raises(TimeoutError):  # and is not refused
        socket.create_connection((target.address, 22), 0.3)
    assert not lifecycle.status(lab.name)[0].running
    with pytest.raises(LabError, match=r"is not running|is off"):
        faults.inject(lab, target.name, "freeze", "sshd")
    faults.clear(lab, target.name, "power-off")
    assert host.sshd_answers(target)
    assert boot_id(target) != before


def test_a_reboot_behind_a_cable_that_is_out(lab: Lab, target: Host) -> None:
    before = boot_id(target)
    faults.inject(lab, target.name, "link-down")
    faults.inject(lab, target.name, "reboot")
    assert boot_id(target) != before
    assert not host.sshd_answers(target, 0.3)


def test_a_lab_goes_down_with_every_fault_on() -> None:
    with running_lab("w", 3, engine=False) as lab:
        first, second, third = (one.name for one in lab.hosts)
        for node, kind, value in (
            (first, "latency", "1s"),
            (first, "partition", ""),
            (first, "bandwidth", "1mbit"),
            (first, "fill-disk", ""),
            (first, "skew-clock", "+1d"),
            (first, "link-down", ""),
            (second, "freeze", "sshd"),
            (third, "kill", "sshd"),
            (third, "power-off", ""),
        ):
            faults.inject(lab, node, kind, value)
        name = lab.name
    assert processes.members([f"{name}-sw", first, second, third]) == {
        one: [] for one in (f"{name}-sw", first, second, third)
    }
    with pytest.raises(LabError, match="there is no lab"):
        lifecycle.status(name)


def test_the_command_line(lab: Lab, target: Host) -> None:
    at = ("--name", lab.name)
    put = clusterctl("lab", "fault", target.name, "link-down", *at)
    assert put.returncode == 0, put.stderr
    assert f"clusterctl lab fault {target.name} link-down --clear --name {lab.name}" in put.stdout
    assert not host.sshd_answers(target, 0.3)
    cleared = clusterctl("lab", "fault", target.name, "--clear", *at)
    assert (cleared.returncode, cleared.stdout) == (0, f"{target.name}: every fault cleared\n")
    assert host.sshd_answers(target, 5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bandwidth",), "bandwidth needs a value, such as 100mbit"),
        (("bandwidth", "fast"), "'fast' is no rate: such as 100mbit, 1gbit"),
        (("latency", "10"), "'10' is no time: such as 100ms, 2s, 500us"),
        (("loss", "101%"), "'101%' is no share: such as 10%, at most 100%"),
        (("skew-clock", "5m"), "'5m' is no skew: such as +300s, -5m, +1h"),
        (("link-down", "1"), "link-down takes no value"),
        (("latency", "1s", "--from", "operator"), "latency is from nobody"),
        (("partition", "--from", "elsewhere"), "has no node 'elsewhere'; it has"),
        ((), "which fault? one of"),
    ],
)
def test_what_cannot_be_done_is_a_usage_error(lab: Lab, words: tuple[str, ...], said: str) -> None:
    done = clusterctl("lab", "fault", lab.hosts[1].name, *words, "--name", lab.name)
    assert done.returncode == UsageError.exit_code
    assert said in done.stderr


def test_a_service_that_does_not_run_cannot_be_killed(lab: Lab, target: Host) -> None:
    faults.inject(lab, target.name, "kill", "sshd")
    with pytest.raises(LabError, match="sshd does not run on"):
        faults.inject(lab, target.name, "freeze", "sshd")
