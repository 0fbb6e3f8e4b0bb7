"""Keys: whom a connection trusts, and what it says when it does not. All through the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.lab import host
from cluster.lab.spec import Lab
from tests.reallab import clusterctl, reason_to_skip, running_lab, write_inventory

SKIP = reason_to_skip(engine=False)
pytestmark = pytest.mark.skipif(bool(SKIP), reason=SKIP or "never")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab("k", nodes=2, engine=False) as lab:
        yield lab


def fails_to_connect(file: Path, node: str, *texts: str) -> None:
    """`up` ends with 4, names the node and no other, says what to do, and has written nothing."""
    done = clusterctl("up", file)
    assert done.returncode == 4, done.stderr
    assert "1 of 2 nodes could not be reached; nothing was changed" in done.stderr
    reasons = done.stderr.splitlines()[1:]
    assert reasons[0].strip().startswith(node)
    for text in texts:
        assert text in done.stderr
    assert done.stdout == ""


def test_a_wrong_key(lab: Lab, tmp_path: Path) -> None:
    second = lab.hosts[1]
    kept = host.run(second, "cat", "/root/.ssh/authorized_keys").stdout
    place = find_authorized_keys(lab)
    try:
        host.run(second, "sh", "-c", f"mv {place} {place}.away")
        fails_to_connect(
            write_inventory(lab, tmp_path / "lab.yaml"),
            second.name,
            "permission denied for root@",
            "ssh.identity_file",
        )
    finally:
        host.run(second, "sh", "-c", f"mv {place}.away {place}")
    assert host.run(second, "cat", "/root/.ssh/authorized_keys").stdout == kept


def find_authorized_keys(lab: Lab) -> str:
    config = host.run(lab.hosts[1], "sh", "-c", "grep -rhi '^AuthorizedKeysFile' /etc/ssh /etc/lab").stdout
    path = config.split()[1] if config.split() else ".ssh/authorized_keys"
    return path if path.startswith("/") else f"/root/{path}"


def test_a_key_that_is_not_there(lab: Lab, tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["nodes"][1]["ssh"] = {"identity_file": "/no/such/key"}

    file = write_inventory(lab, tmp_path / "lab.yaml", change)
    fails_to_connect(file, lab.hosts[1].name, "/no/such/key (no such file)")


def test_an_unknown_host_key_is_refused_and_accept_new_is_a_choice(lab: Lab, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    lines = lab.known_hosts.read_text().splitlines(keepends=True)
    known.write_text("".join(line for line in lines if lab.hosts[1].address not in line))

    def change(content: dict[str, Any]) -> None:
        content["ssh"]["known_hosts"] = str(known)

    def accept(content: dict[str, Any]) -> None:
        change(content)
        content["ssh"]["host_key_policy"] = "accept-new"

    strict = write_inventory(lab, tmp_path / "strict.yaml", change)
    fails_to_connect(
        strict, lab.hosts[1].name, "is unknown", f"ssh-keyscan {lab.hosts[1].address} >> {known}"
    )
    accepting = write_inventory(lab, tmp_path / "accept.yaml", accept)
    assert clusterctl("status", accepting).returncode == 1
    assert lab.hosts[1].address in known.read_text()
    assert clusterctl("status", strict).returncode == 1


def test_a_changed_host_key(lab: Lab, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    first, second = lab.hosts
    keys = {line.split()[0]: line.split(maxsplit=1)[1] for line in lab.known_hosts.read_text().splitlines()}
    known.write_text(f"{first.address} {keys[first.address]}\n{second.address} {keys[first.address]}\n")

    def change(content: dict[str, Any]) -> None:
        content["ssh"] |= {"known_hosts": str(known), "host_key_policy": "accept-new"}

    file = write_inventory(lab, tmp_path / "lab.yaml", change)
    before = known.read_text()
    fails_to_connect(file, second.name, "has changed", f"ssh-keygen -R '{second.address}' -f {known}")
    assert known.read_text() == before


def test_sshd_is_down(lab: Lab, tmp_path: Path) -> None:
    host.stop_sshd(lab.hosts[1])
    try:
        file = write_inventory(lab, tmp_path / "lab.yaml")
        fails_to_connect(file, lab.hosts[1].name, f"nothing listens on {lab.hosts[1].address}:22")
    finally:
        host.start_sshd(lab.hosts[1])


def test_a_host_is_down(lab: Lab, tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["ssh"]["connect_timeout"] = 1.0

    host.link_down(lab.hosts[1])
    try:
        file = write_inventory(lab, tmp_path / "lab.yaml", change)
        fails_to_connect(file, lab.hosts[1].name, f"no answer from {lab.hosts[1].address}:22 within 1 s")
        status = clusterctl("status", file)
        assert status.returncode == 4
        assert "unreachable" in status.stdout
        down = clusterctl("down", "--yes", file)
        assert down.returncode == 7
        assert f"{lab.hosts[1].name}  no answer" in down.stderr
    finally:
        host.link_up(lab.hosts[1])
