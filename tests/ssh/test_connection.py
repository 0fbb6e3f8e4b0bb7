"""The Connection over SSH, against real sshd on real links."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import pytest

from cluster.connection import Connection, LocalConnection
from cluster.errors import CommandTimeout, ConnectionLost
from cluster.lab import host
from cluster.lab.spec import Host, Lab
from cluster.ssh import SSHConnection
from cluster.ssh_open import Jumps
from cluster.ssh_target import Target
from cluster.steps import Result
from tests.reallab import reason_to_skip, running_lab

SKIP = reason_to_skip(engine=False)
pytestmark = pytest.mark.skipif(bool(SKIP), reason=SKIP or "never")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab("c", nodes=3, engine=False) as lab:
        yield lab


def target(lab: Lab, host_: Host) -> Target:
    return Target(
        host_.address,
        22,
        "root",
        identity_files=(str(lab.client_key),),
        known_hosts=(str(lab.known_hosts),),
        timeout=5.0,
    )


@pytest.fixture
def jumps() -> Iterator[Jumps]:
    jumps = Jumps()
    yield jumps
    jumps.close()


@pytest.fixture(params=["ssh", "local"])
def line(request: pytest.FixtureRequest, lab: Lab, jumps: Jumps, tmp_path: Path) -> Iterator[Connection]:
    """Both kinds of Connection keep the same promises."""
    if request.param == "ssh":
        line: Connection = SSHConnection(target(lab, lab.hosts[0]), jumps)
    else:
        request.getfixturevalue("monkeypatch").setenv("HOME", str(tmp_path))
        line = LocalConnection()
    yield line
    line.close()


@pytest.fixture
def ssh_line(lab: Lab, jumps: Jumps) -> Iterator[SSHConnection]:
    line = SSHConnection(target(lab, lab.hosts[1]), jumps)
    yield line
    line.close()


def test_words_arrive_as_they_were_sent(line: Connection) -> None:
    words = ("a b", "$HOME", "'", '"', "; rm -rf /", "", "*", "ü\n")
    result = line.run(("printf", "%s|", *words))
    assert (result.exit_code, result.stdout) == (0, "".join(f"{word}|" for word in words))


def test_exit_code_and_both_streams(line: Connection) -> None:
    result = line.run(("sh", "-c", "echo out; echo err >&2; exit 7"))
    assert (result.exit_code, result.stdout, result.stderr) == (7, "out\n", "err\n")


def test_stdin_is_the_script(line: Connection) -> None:
    assert line.run(("sh", "-s"), stdin="read x <<E\nhello\nE\necho $x").stdout == "hello\n"


def test_pieces_of_stdin_are_fed_while_output_comes(line: Connection) -> None:
    """Each piece is the answer to a line: fed any later, this would not end. The last is the end of stdin."""
    heard: SimpleQueue[str] = SimpleQueue()

    def answers() -> Iterator[str]:
        yield "one\n"
        yield f"{heard.get(timeout=5)} two\n"
        yield f"{heard.get(timeout=5)} three"

    result = line.run(("cat",), answers(), 10, heard.put)
    assert (result.exit_code, heard.get_nowait()) == (0, "one two three")


def test_more_pieces_of_stdin_than_a_buffer_holds(line: Connection) -> None:
    assert line.run(("wc", "-c"), ("x" * 100_000 for _ in range(50))).stdout.strip() == "5000000"


@pytest.mark.parametrize("pieces", [1, 50])
def test_what_a_command_does_not_read_is_no_error(line: Connection, pieces: int) -> None:
    stdin = "x" * 5_000_000 if pieces == 1 else ("x" * 100_000 for _ in range(pieces))
    assert line.run(("sh", "-c", "echo done; exit 4"), stdin, 10) == Result(4, "done\n", "")


def waits(event: threading.Event) -> Iterator[str]:
    yield "one\n"
    event.wait(30)
    yield "too late\n"


def test_a_command_may_end_before_its_stdin_does(line: Connection) -> None:
    event = threading.Event()
    started = time.monotonic()
    result = line.run(("sh", "-c", "read x; echo $x; exit 3"), waits(event), 20)
    assert (result.exit_code, result.stdout) == (3, "one\n")
    assert time.monotonic() - started < 5
    event.set()  # what comes now finds the pipe closed, and that is no error


def test_stdin_ends_with_the_run(ssh_line: SSHConnection) -> None:
    """Also where its pieces have not ended: what goes on on the node finds out that nobody is there."""
    event = threading.Event()
    with pytest.raises(CommandTimeout):
        ssh_line.run(("sh", "-c", "cat >/dev/null; echo ended >a-file"), waits(event), 0.3)
    end = time.monotonic() + 5
    while ssh_line.run(("cat", "a-file")).stdout != "ended\n":
        assert time.monotonic() < end
    ssh_line.run(("rm", "a-file"))
    event.set()


def test_ten_megabytes_on_both_streams_at_once(line: Connection) -> None:
    script = "head -c 10000000 /dev/zero | tr '\\0' e >&2 & head -c 10000000 /dev/zero | tr '\\0' o; wait"
    result = line.run(("sh", "-c", script))
    assert (result.stdout.count("o"), result.stderr.count("e")) == (10_000_000, 10_000_000)


def test_a_program_that_is_not_there(line: Connection) -> None:
    assert line.run(("no-such-program",)).exit_code == 127


def test_a_command_that_does_not_end_is_named(line: Connection) -> None:
    with pytest.raises(CommandTimeout, match=r"no end after 0\.3 s: sleep 60"):
        line.run(("sleep", "60"), timeout=0.3)


def test_lines_are_handed_over_as_they_come(line: Connection) -> None:
    seen: list[str] = []
    result = line.run(("sh", "-c", "echo one; echo two; printf three"), on_line=seen.append)
    assert (seen, result.stdout) == (["one", "two", "three"], "")


def test_put_writes_whole_files_with_their_mode(line: Connection) -> None:
    for content in ("first", "second: ü $HOME 'x'\n"):
        line.put(".clusterctl/it's a test/secrets.env", content, 0o600)
    place = ".clusterctl/it's a test"
    assert line.run(("cat", f"{place}/secrets.env")).stdout == "second: ü $HOME 'x'\n"
    assert line.run(("stat", "-c", "%a", f"{place}/secrets.env")).stdout == "600\n"
    assert line.run(("ls", "-A", place)).stdout == "secrets.env\n"
    line.run(("rm", "-rf", ".clusterctl"))


def test_put_says_why_it_cannot(line: Connection) -> None:
    line.put("a-file", "x", 0o644)
    with pytest.raises(ConnectionLost):
        line.put("a-file/below", "x", 0o644)
    line.run(("rm", "a-file"))


def test_close_ends_a_command_that_runs(line: Connection) -> None:
    lost: list[BaseException] = []
    begun = threading.Event()

    def run() -> None:
        try:
            line.run(("sh", "-c", "echo begun; sleep 60"), timeout=None, on_line=lambda _: begun.set())
        except ConnectionLost as error:
            lost.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(5)
    line.close()
    thread.join(2)
    assert not thread.is_alive()


def test_a_pulled_cable_is_noticed_while_a_command_runs(lab: Lab, ssh_line: SSHConnection) -> None:
    begun = threading.Event()
    pulled = threading.Thread(target=lambda: (begun.wait(5), host.link_down(lab.hosts[1])))
    pulled.start()
    try:
        with pytest.raises(ConnectionLost) as lost:
            ssh_line.run(("sh", "-c", "echo begun; sleep 120"), timeout=100, on_line=lambda _: begun.set())
        assert not isinstance(lost.value, CommandTimeout)
    finally:
        pulled.join()
        host.link_up(lab.hosts[1])


def test_a_slow_link_is_no_dead_link(lab: Lab, jumps: Jumps) -> None:
    """1 Mbit/s with a queue of 400 ms: 300 kB take longer than the queue, and all of them arrive."""
    slow = lab.hosts[2]
    shape = ("tbf", "rate", "1mbit", "burst", "32kbit", "latency", "400ms")
    added = host.run(slow, "tc", "qdisc", "add", "dev", "eth0", "root", *shape)
    assert added.returncode == 0, added.stderr
    try:
        line = SSHConnection(target(lab, slow), jumps)
        assert len(line.run(("head", "-c", "300000", "/dev/zero")).stdout) == 300_000
        line.close()
    finally:
        host.run(slow, "tc", "qdisc", "del", "dev", "eth0", "root")


def test_through_a_jump_host_and_a_second_one(lab: Lab, jumps: Jumps) -> None:
    first, second, last = (target(lab, one) for one in lab.hosts)
    line = SSHConnection(replace(last, jumps=(first, second)), jumps)
    client = line.run(("sh", "-c", "echo $SSH_CLIENT")).stdout.split()[0]
    line.close()
    assert client == second.host


def test_a_jump_host_that_cannot_reach_the_node(lab: Lab, jumps: Jumps) -> None:
    beyond = replace(target(lab, lab.hosts[0]), host="10.231.255.254", jumps=(target(lab, lab.hosts[1]),))
    with pytest.raises(ConnectionLost, match=r"the jump host root@.* cannot reach 10\.231\.255\.254:22"):
        SSHConnection(beyond, jumps)
