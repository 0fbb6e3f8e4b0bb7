"""Faults put into real hosts: `check` finds each under its id, on its node, and nothing else."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from cluster.lab import engine, environment, faults, host, image
from cluster.lab.spec import IMAGE, Host, Lab
from tests.reallab import clusterctl, docker, reason_to_skip, running_lab, write_inventory

SKIP = reason_to_skip(engine=True, serves=True)
pytestmark = pytest.mark.skipif(bool(SKIP), reason=SKIP or "never")

Fault = Callable[[Lab], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab("c", nodes=2) as lab:
        yield lab


@pytest.fixture(scope="module")
def file(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inventory(lab, tmp_path_factory.mktemp("check") / "lab.yaml")


def do(target: Host, *argv: str) -> str:
    """A command in a host, which must succeed."""
    done = host.run(target, *argv)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write(target: Host, path: str, content: str) -> None:
    do(target, "sh", "-c", 'printf %s "$0" >"$1"', content, path)


def checked(file: Path, *options: str) -> tuple[int, dict[str, Any]]:
    done = clusterctl("check", file, "--json", *options, timeout=60)
    return done.returncode, json.loads(done.stdout)


def found(answer: dict[str, Any]) -> set[tuple[str, str]]:
    """{(id, node)}, warnings too."""
    return {(problem["id"], problem["node"]) for problem in answer["problems"]}


def images(lab: Lab) -> Iterator[None]:
    """The hosts' images as they were, afterwards."""
    try:
        yield
    finally:
        for target in lab.hosts:
            image.import_image(target, path=lab.image_path)


@contextlib.contextmanager
def mounted(target: Host, source: str, over: str) -> Iterator[None]:
    do(target, "mount", "--bind", source, over)
    try:
        yield
    finally:
        do(target, "umount", over)


# --- the faults -------------------------------------------------------------------------------------


@contextlib.contextmanager
def firewall_drops_high_ports(lab: Lab) -> Iterator[None]:
    """As one that was opened for SSH and Ray's GCS alone."""
    for rule in ("-m multiport --dports 22,6379 -j ACCEPT", "--syn -j DROP"):
        do(lab.hosts[1], "iptables", "-A", "INPUT", "-p", "tcp", *rule.split())
    try:
        yield
    finally:
        do(lab.hosts[1], "iptables", "-F", "INPUT")


@contextlib.contextmanager
def smaller_mtu(lab: Lab) -> Iterator[None]:
    do(lab.hosts[1], "ip", "link", "set", "eth0", "mtu", "1400")
    try:
        yield
    finally:
        do(lab.hosts[1], "ip", "link", "set", "eth0", "mtu", "1500")


@contextlib.contextmanager
def name_resolves_to_loopback(lab: Lab) -> Iterator[None]:
    """As Debian's installer writes it."""
    name = lab.hosts[1].name
    write(lab.hosts[1], "/tmp/hosts", f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
    with mounted(lab.hosts[1], "/tmp/hosts", "/etc/hosts"):
        yield


@contextlib.contextmanager
def wrong_clock(lab: Lab) -> Iterator[None]:
    target = lab.hosts[1]
    faults.inject(lab, target.name, "skew-clock", "+5m")
    try:
        yield
    finally:
        faults.clear(lab, target.name, "skew-clock")


@contextlib.contextmanager
def another_image(lab: Lab) -> Iterator[None]:
    links, _ = image.system_directories()
    init = host.init_pid(lab.hosts[1])
    assert init is not None
    content = image.image_tar(links, {**image.system_files(), "etc/other": b"content"})
    engine.import_tar(init, content, IMAGE, (f"ENV PATH={lab.image_path}", "CMD sh"))
    yield from images(lab)


@contextlib.contextmanager
def image_without_ray(lab: Lab) -> Iterator[None]:
    for target in lab.hosts:
        image.import_image(target)
    yield from images(lab)


@contextlib.contextmanager
def image_gone(lab: Lab) -> Iterator[None]:
    docker(lab.hosts[1], "rmi", IMAGE)
    yield from images(lab)


def model_of(lab: Lab) -> str:
    """Where the hosts have the model."""
    return next(m.split(":")[0] for m in lab.mounts if m.split(":")[1] == environment.MODEL_TARGET)


@contextlib.contextmanager
def model_with(lab: Lab, change: str) -> Iterator[None]:
    """The second host has a copy of the model, changed by a shell command in its folder."""
    target, model = lab.hosts[1], model_of(lab)
    do(target, "sh", "-c", f"cp -r {model} /tmp/model && cd /tmp/model && {change}")
    try:
        with mounted(target, "/tmp/model", model):
            yield
    finally:
        do(target, "rm", "-rf", "/tmp/model")


def shard_differs(lab: Lab) -> AbstractContextManager[None]:
    """One byte of 270 million, with the same size."""
    return model_with(lab, "printf X | dd of=model.safetensors bs=1 seek=200000000 conv=notrunc")


def shard_is_cut(lab: Lab) -> AbstractContextManager[None]:
    return model_with(lab, "truncate -s 100000000 model.safetensors")


def model_is_missing(lab: Lab) -> AbstractContextManager[None]:
    return model_with(lab, "rm -r /tmp/model/*")


@contextlib.contextmanager
def engine_disk_is_full(lab: Lab) -> Iterator[None]:
    target = lab.hosts[1]
    host.stop_engine(target)
    do(target, "mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", "/var/lib/docker")
    try:
        host.start_engine(target)
        image.import_image(target, path=lab.image_path)
        yield
    finally:
        host.stop_engine(target)
        do(target, "umount", "-l", "/var/lib/docker")
        host.start_engine(target)


@contextlib.contextmanager
def home_is_full(lab: Lab) -> Iterator[None]:
    target = lab.hosts[1]
    do(target, "sh", "-c", "mkdir /root/.clusterctl && mount -t tmpfs -o size=1m tmpfs /root/.clusterctl")
    try:
        yield
    finally:
        do(target, "sh", "-c", "umount /root/.clusterctl && rmdir /root/.clusterctl")


def taken(port: int) -> Fault:
    @contextlib.contextmanager
    def port_is_taken(lab: Lab) -> Iterator[None]:
        serve = f"python3 -m http.server {port} >/dev/null 2>&1 & echo $!"
        pid = do(lab.hosts[0], "sh", "-c", serve).strip()
        listens = f"until ss -ltnH 'sport = :{port}' | grep -q .; do :; done"
        do(lab.hosts[0], "timeout", "20", "sh", "-c", listens)
        try:
            yield
        finally:
            do(lab.hosts[0], "kill", pid)

    return port_is_taken


@contextlib.contextmanager
def engine_is_down(lab: Lab) -> Iterator[None]:
    host.stop_engine(lab.hosts[1])
    try:
        yield
    finally:
        host.start_engine(lab.hosts[1])


@contextlib.contextmanager
def name_is_somebody_elses(lab: Lab) -> Iterator[None]:
    name = f"clusterctl-{lab.name}-ray"
    docker(lab.hosts[1], "create", "--name", name, IMAGE, "true")
    try:
        yield
    finally:
        docker(lab.hosts[1], "rm", name)


@contextlib.contextmanager
def one_hostname(lab: Lab) -> Iterator[None]:
    first, second = (target.name for target in lab.hosts)
    write(lab.hosts[1], "/proc/sys/kernel/hostname", first)
    try:
        yield
    finally:
        write(lab.hosts[1], "/proc/sys/kernel/hostname", second)


@contextlib.contextmanager
def sshd_is_down(lab: Lab) -> Iterator[None]:
    host.stop_sshd(lab.hosts[1])
    try:
        yield
    finally:
        host.start_sshd(lab.hosts[1])


HEAD, WORKER = 0, 1
# fault, the id it has to be found under, the node, and whether the network has to be measured for it
FAULTS: tuple[tuple[Fault, str, int, bool], ...] = (
    (firewall_drops_high_ports, "firewall-ports", WORKER, True),
    (smaller_mtu, "mtu-mismatch", WORKER, True),
    (smaller_mtu, "mtu-mismatch", WORKER, False),
    (name_resolves_to_loopback, "gloo-loopback", WORKER, False),
    (wrong_clock, "clock-skew", WORKER, False),
    (another_image, "image-drift", WORKER, False),
    (image_gone, "image-missing", WORKER, False),
    (shard_differs, "hf-cache-partial", WORKER, True),
    (shard_is_cut, "hf-cache-partial", WORKER, False),
    (model_is_missing, "model-path-missing", WORKER, False),
    (engine_disk_is_full, "disk-full", WORKER, False),
    (home_is_full, "disk-full", WORKER, False),
    (taken(6379), "ray-port-in-use", HEAD, False),
    (taken(8000), "api-port-in-use", HEAD, False),
    (engine_is_down, "docker-daemon-down", WORKER, False),
    (name_is_somebody_elses, "container-name-conflict", WORKER, False),
    (one_hostname, "duplicate-hostname", WORKER, False),
)


def test_a_healthy_lab_has_no_problems(lab: Lab, file: Path) -> None:
    code, answer = checked(file)
    assert (code, answer["ok"], answer["problems"], answer["unreachable"]) == (0, True, [], {})
    assert set(answer["facts"]) == {target.name for target in lab.hosts}
    assert all(link["connected"] and link["mtu_passes"] for link in answer["network"]["links"])
    for target in lab.hosts:
        assert docker(target, "ps", "--all", "--quiet") == ""
        assert host.run(target, "ls", "/root/.clusterctl").returncode != 0


@pytest.mark.parametrize(
    ("fault", "id_", "node", "measures"),
    FAULTS,
    ids=[f"{id_}-{fault.__name__}{'-measured' if measures else ''}" for fault, id_, _, measures in FAULTS],
)
def test_a_fault_is_found_under_its_id(
    lab: Lab, file: Path, fault: Fault, id_: str, node: int, measures: bool
) -> None:
    with fault(lab):
        code, answer = checked(file, *(() if measures else ("--quick",)))
    assert {found_id for found_id, _ in found(answer)} == {id_}, answer["problems"]
    assert {name for _, name in found(answer)} == {lab.hosts[node].name}, answer["problems"]
    stops = any(problem["severity"] == "error" for problem in answer["problems"])
    assert (code, answer["ok"]) == ((5, False) if stops else (0, True))
    assert all(problem["remedy"] and problem["expected"] for problem in answer["problems"])


def test_an_image_without_ray(lab: Lab, file: Path) -> None:
    with image_without_ray(lab):
        code, answer = checked(file, "--quick")
    assert code == 5
    assert found(answer) == {
        (id_, target.name) for id_ in ("image-no-ray", "image-no-vllm") for target in lab.hosts
    }


def test_what_is_ignored_is_said_and_stops_nothing(lab: Lab, file: Path) -> None:
    with home_is_full(lab):
        code, answer = checked(file, "--quick", "--ignore", "disk-full")
    assert (code, answer["ok"], answer["problems"]) == (0, True, [])
    assert [problem["id"] for problem in answer["ignored"]] == ["disk-full"]


def test_a_node_that_cannot_be_reached_is_a_problem_and_the_others_are_checked(lab: Lab, file: Path) -> None:
    with sshd_is_down(lab):
        code, answer = checked(file)
    assert code == 4
    assert found(answer) == {("ssh-unreachable", lab.hosts[1].name)}
    assert set(answer["facts"]) == {lab.hosts[0].name}


def test_up_stops_before_it_changes_anything(lab: Lab, file: Path) -> None:
    with firewall_drops_high_ports(lab):
        done = clusterctl("up", file)
    assert done.returncode == 5
    assert "[firewall-ports]" in done.stderr
    for target in lab.hosts:
        assert docker(target, "ps", "--all", "--quiet") == ""
        assert host.run(target, "ls", "/root/.clusterctl").returncode != 0
