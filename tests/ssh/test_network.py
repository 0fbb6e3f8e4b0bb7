"""The network between real hosts, measured over real sshd: firewalls, MTUs, cables; nothing is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import fleet
from cluster.inventory import Inventory, parse
from cluster.lab import host, processes
from cluster.lab.lab_inventory import inventory_text
from cluster.lab.spec import Host, Lab
from cluster.measure import measure
from cluster.network import Link, Matrix, problems
from cluster.plan import Plan, make_plan
from tests.reallab import reason_to_skip, running_lab

SKIP = reason_to_skip(engine=False)
pytestmark = pytest.mark.skipif(bool(SKIP), reason=SKIP or "never")

HIGH_PORTS = ("-p", "tcp", "-m", "tcp", "--dport", "20000:65535")
HARD_LIMIT = 13.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab("w", nodes=3, engine=False) as lab:
        yield lab


@pytest.fixture
def inventory(lab: Lab) -> Inventory:
    return parse(inventory_text(lab), "lab.yaml")


@pytest.fixture
def plan(inventory: Inventory) -> Plan:
    return make_plan(inventory)


@pytest.fixture
def lines(inventory: Inventory) -> Iterator[fleet.Fleet]:
    with fleet.connect(inventory) as lines:
        yield lines


@pytest.fixture(autouse=True)
def nothing_is_left(lab: Lab) -> Iterator[None]:
    """After every test, whatever happened in it."""
    yield
    assert wait_until_no_probe_runs(lab) == {}


def probes(lab: Lab) -> dict[str, list[int]]:
    """The Pythons that read their program from stdin, by host."""
    found = {}
    for name, pids in processes.members([one.name for one in lab.hosts]).items():
        running = [pid for pid in pids if b"\0-IS\0-c\0" in command_line(pid)]
        if running:
            found[name] = running
    return found


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def wait_until_no_probe_runs(lab: Lab, seconds: float = 15.0) -> dict[str, list[int]]:
    end = time.monotonic() + seconds
    while (left := probes(lab)) and time.monotonic() < end:
        time.sleep(0.02)
    return left


def do(one: Host, *argv: str) -> None:
    done = host.run(one, *argv)
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def rule(one: Host, chain: str, *words: str) -> Iterator[None]:
    """A firewall rule on a host."""
    do(one, "iptables", "-I", chain, *words)
    try:
        yield
    finally:
        do(one, "iptables", "-D", chain, *words)


@contextlib.contextmanager
def mtu(size: int, *where: str) -> Iterator[None]:
    """Another MTU on an interface: `ip -n NAMESPACE link set dev NAME`."""
    namespace, device = where
    argv = ("ip", "-n", namespace, "link", "set", "dev", device, "mtu")
    processes.run((*argv, str(size)))
    try:
        yield
    finally:
        processes.run((*argv, "1500"))


def link(matrix: Matrix, src: int, dst: int) -> Link:
    src_name, dst_name = matrix.nodes[src - 1], matrix.nodes[dst - 1]
    return next(one for one in matrix.links if (one.src, one.dst) == (src_name, dst_name))


def found(plan: Plan, matrix: Matrix) -> list[tuple[str, str]]:
    return [(problem.id, problem.node) for problem in problems(plan, matrix)]


def test_healthy_nodes(lab: Lab, plan: Plan, lines: fleet.Fleet) -> None:
    measured = measure(plan, lines.connections)
    assert len(measured.links) == 6
    for one in measured.links:
        assert (one.connected, one.why, one.mtu, one.mtu_passes) == (True, "", 1500, True)
        assert one.rtt_seconds and one.rtt_seconds < 0.1
        assert one.bits_per_second and one.bits_per_second > 1e7
    assert found(plan, measured) == []
    assert wait_until_no_probe_runs(lab, 2.0) == {}


def test_a_firewall_that_drops_high_ports(lab: Lab, plan: Plan, lines: fleet.Fleet) -> None:
    with rule(lab.hosts[1], "INPUT", *HIGH_PORTS, "-m", "state", "--state", "NEW", "-j", "DROP"):
        measured = measure(plan, lines.connections)
    assert {link(measured, src, 2).why for src in (1, 3)} == {"timed out"}
    assert [link(measured, *pair).connected for pair in ((2, 1), (2, 3), (1, 3), (3, 1))] == [True] * 4
    (problem,) = problems(plan, measured)
    assert (problem.id, problem.node) == ("firewall-ports", lab.hosts[1].name)
    assert (
        "DROP" in problem.found and lab.hosts[0].name in problem.found and lab.hosts[2].name in problem.found
    )


def test_a_firewall_that_drops_answers_too(lab: Lab, plan: Plan, lines: fleet.Fleet) -> None:
    with rule(lab.hosts[1], "INPUT", *HIGH_PORTS, "-j", "DROP"):
        measured = measure(plan, lines.connections)
    assert found(plan, measured) == [("firewall-ports", lab.hosts[1].name)]


@pytest.mark.parametrize(
    ("how", "why"),
    [("icmp-port-unreachable", "connection refused"), ("icmp-host-prohibited", "no route to host")],
)
def test_a_firewall_that_rejects(lab: Lab, plan: Plan, lines: fleet.Fleet, how: str, why: str) -> None:
    with rule(lab.hosts[2], "INPUT", *HIGH_PORTS, "-j", "REJECT", "--reject-with", how):
        measured = measure(plan, lines.connections)
    assert {link(measured, src, 3).why for src in (1, 2)} == {why}
    assert "REJECT" in next(p.found for p in problems(plan, measured) if p.node == lab.hosts[2].name)


def test_one_direction_only(lab: Lab, plan: Plan, lines: fleet.Fleet) -> None:
    new = (*HIGH_PORTS, "-m", "state", "--state", "NEW", "-s", lab.hosts[0].address)
    with rule(lab.hosts[2], "INPUT", *new, "-j", "DROP"):
        measured = measure(plan, lines.connections)
    assert [one for one in measured.links if one.connected is not True] == [link(measured, 1, 3)]
    assert link(measured, 3, 1).bits_per_second
    (problem,) = problems(plan, measured)
    assert (problem.id, problem.node) == ("firewall-ports", lab.hosts[2].name)
    assert lab.hosts[0].name in problem.found and lab.hosts[1].name not in problem.found


def test_where_udp_is_blocked_the_mtu_is_not_known(lab: Lab, plan: Plan, lines: fleet.Fleet) -> None:
    with rule(lab.hosts[0], "INPUT", "-p", "udp", "-j", "DROP"):
        measured = measure(plan, lines.connections)
    assert [link(measured, *pair).mtu_passes for pair in ((2, 1), (1, 2), (2, 3))] == [None, None, True]
    assert found(plan, measured) == []


def test_jumbo_frames_on_one_node_alone(lab: Lab, plan: Plan, lines: fleet.Fleet) -> None:
    with mtu(9000, lab.hosts[1].name, "eth0"):
        measured = measure(plan, lines.connections)
    assert (link(measured, 2, 1).mtu, link(measured, 2, 1).mtu_passes) == (9000, False)
    assert (link(measured, 1, 2).mtu, link(measured, 1, 2).mtu_passes) == (1500, True)
    assert found(plan, measured) == [("mtu-mismatch", lab.hosts[1].name)]


def test_a_switch_port_that_passes_less(lab: Lab, plan: Plan, lines: fleet.Fleet) -> None:
    """Each node's own MTU looks right. Small packets pass, so every ping and every connection works."""
    with mtu(1300, lab.switch, lab.hosts[2].name):
        measured = measure(plan, lines.connections)
    assert [link(measured, *pair).mtu_passes for pair in ((3, 1), (3, 2), (1, 2))] == [False, False, True]
    assert all(one.connected for one in measured.links)
    assert found(plan, measured) == [("mtu-mismatch", lab.hosts[2].name)]


def test_a_slow_interface(lab: Lab, plan: Plan, lines: fleet.Fleet) -> None:
    shape = ("tbf", "rate", "100mbit", "burst", "64kbit", "latency", "50ms")
    do(lab.hosts[2], "tc", "qdisc", "add", "dev", "eth0", "root", *shape)
    try:
        measured = measure(plan, lines.connections)
    finally:
        do(lab.hosts[2], "tc", "qdisc", "del", "dev", "eth0", "root")
    assert (link(measured, 3, 1).bits_per_second or 0) < 2e8
    assert ("network-slow", lab.hosts[2].name) in found(plan, measured)


def test_a_node_that_dies_in_the_middle(lab: Lab, plan: Plan, lines: fleet.Fleet) -> None:
    started = time.monotonic()
    pulled = threading.Thread(target=cut_in_the_middle, args=(lab,))
    pulled.start()
    try:
        measured = measure(plan, lines.connections)
    finally:
        pulled.join()
        host.link_up(lab.hosts[1])
    assert time.monotonic() - started < HARD_LIMIT
    assert found(plan, measured) == []
    assert {link(measured, 2, dst).connected for dst in (1, 3)} == {None}
    assert link(measured, 2, 1).why.startswith(f"not measured: {lab.hosts[1].name}: ")
    assert link(measured, 1, 3).bits_per_second and link(measured, 3, 1).bits_per_second


def cut_in_the_middle(lab: Lab) -> None:
    """The second host measures no further until its cable is pulled, however long that takes here."""
    until_measuring(lab)
    frozen = probes(lab).get(lab.hosts[1].name, [])
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    host.link_down(lab.hosts[1])
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)


def until_measuring(lab: Lab) -> None:
    """The second host has connections beside sshd's."""
    end = time.monotonic() + 10
    while not any(map(measures, probes(lab).get(lab.hosts[1].name, ()))):
        assert time.monotonic() < end
        time.sleep(0.005)


def measures(pid: int) -> bool:
    """Whether a connection is established in the namespace of a process, on another port than 22."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
        found = ((line.split()[1].partition(":")[2], line.split()[3]) for line in lines)
        return any(state == "01" and port != f"{22:04X}" for port, state in found)
    return False


def test_a_stranger_gets_no_answer(lab: Lab, plan: Plan, lines: fleet.Fleet) -> None:
    """Whoever connects without the token is told nothing, and keeps nobody from measuring."""
    stranger = (
        "import socket, time\n"
        "end, ports = time.monotonic() + 10, []\n"
        "while not ports and time.monotonic() < end:\n"
        "    words = [line.split() for line in open('/proc/net/tcp').readlines()[1:]]\n"
        "    ports = [int(w[1].split(':')[1], 16) for w in words if w[3] == '0A']\n"
        "    ports = [port for port in ports if port >= 20000]\n"
        f"s = socket.create_connection(('{lab.hosts[0].address}', ports[0]), 2)\n"
        "s.sendall(b'x' * 32)\n"
        "print('got', s.recv(10))\n"
    )
    said: list[str] = []
    argv = ("/usr/bin/python3", "-c", stranger)
    thread = threading.Thread(target=lambda: said.append(str(host.run(lab.hosts[0], *argv))))
    thread.start()
    measured = measure(plan, lines.connections)
    thread.join()
    assert "got b''" in said[0]
    assert all(one.bits_per_second for one in measured.links)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_nothing_is_left_when_the_operator_is_interrupted(
    lab: Lab, tmp_path: Path, how: signal.Signals
) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(inventory_text(lab))
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from cluster import fleet\n"
        "from cluster.inventory import load\n"
        "from cluster.measure import measure\n"
        "from cluster.plan import make_plan\n"
        "inventory = load(Path(sys.argv[1]))\n"
        "with fleet.connect(inventory) as lines:\n"
        "    measure(make_plan(inventory), lines.connections)\n"
    )
    operator = subprocess.Popen(
        [sys.executable, "-c", program, str(file)], stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2]
    )
    try:
        until_measuring(lab)
        os.kill(operator.pid, how)
        assert operator.wait(5) != 0
    finally:
        operator.kill()
        operator.wait()
    assert wait_until_no_probe_runs(lab, 3.0) == {}
