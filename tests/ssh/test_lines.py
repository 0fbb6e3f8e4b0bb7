"""Lines that are opened again, over a real sshd."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from cluster.connection import Connection
from cluster.errors import ConnectionLost
from cluster.inventory import load
from cluster.lab import host
from cluster.lab.spec import Host
from cluster.lines import Line, lasting, split
from tests.reallab import clusterctl, reason_to_skip, running_lab, write_inventory

SKIP = reason_to_skip(engine=False)
pytestmark = pytest.mark.skipif(bool(SKIP), reason=SKIP or "never")


def sessions(target: Host) -> list[str]:
    """The process ids of sshd's sessions on a host."""
    listed = host.run(target, "ss", "-tnpH", "state", "established", "sport", "=", ":22").stdout
    return sorted(set(re.findall(r"pid=(\d+)", listed)))


def opened_again(line: Line) -> Connection:
    """Within 30 s."""
    retrying = Retrying(
        retry=retry_if_result(lambda found: found is None), wait=wait_fixed(0.05), stop=stop_after_delay(30)
    )
    found: Connection = retrying(lambda: line.connection)
    return found


def test_a_session_that_is_killed_is_opened_again(tmp_path: Path) -> None:
    with running_lab("l", nodes=2, engine=False) as lab:
        file = write_inventory(lab, tmp_path / "lab.yaml")
        with lasting(load(file)) as lines:
            opened, closed = split(lines)
            assert (set(opened), closed) == ({one.name for one in lab.hosts}, {})
            other = lab.hosts[1]
            host.run(other, "kill", "-KILL", *sessions(other))
            with pytest.raises(ConnectionLost):
                opened[other.name].run(("true",))
            lines[other.name].broke(opened[other.name], "killed")
            again = opened_again(lines[other.name])
            assert again is not opened[other.name]
            assert again.run(("hostname",)).exit_code == 0
            assert lines[lab.hosts[0].name].connection is opened[lab.hosts[0].name]
        Retrying(retry=retry_if_result(bool), wait=wait_fixed(0.05), stop=stop_after_delay(30))(
            sessions, other
        )

        once = clusterctl("watch", "--once", file)
        assert (once.returncode, " down " in once.stdout) == (1, True), once.stdout + once.stderr
