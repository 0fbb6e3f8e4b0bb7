"""What goes wrong on real hosts: the right node is named, the exit code says what was touched."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.lab import host, image
from cluster.lab.spec import Lab
from tests.reallab import clusterctl, clusterctl_running, docker, reason_to_skip, running_lab, write_inventory

SKIP = reason_to_skip(engine=True, serves=True)
pytestmark = pytest.mark.skipif(bool(SKIP), reason=SKIP or "never")

JOIN = "Wait for every node and GPU to join"
# Ray asks every 3 s, waits 10 s for an answer and counts to 5: a minute in which nothing is tested.
SOON = {"period_ms": "1000", "timeout_ms": "3000", "failure_threshold": "3"}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab("f", nodes=2) as lab:
        yield lab


@pytest.fixture
def file(lab: Lab, tmp_path: Path) -> Iterator[Path]:
    """The lab's inventory; whatever the test began is taken down."""
    file = write_inventory(lab, tmp_path / "lab.yaml")
    yield file
    assert clusterctl("down", "--yes", file).returncode == 0
    for target in lab.hosts:
        assert docker(target, "ps", "--all", "--quiet") == ""
        assert host.run(target, "ls", "-A", "/root/.clusterctl").returncode != 0


def nothing_was_changed(lab: Lab) -> None:
    for target in lab.hosts:
        if host.engine_answers(target):
            assert docker(target, "ps", "--all", "--quiet") == ""
        assert host.run(target, "ls", "-A", "/root/.clusterctl").returncode != 0


def refused(lab: Lab, file: Path, *texts: str) -> None:
    """`up` ends with 5 before it changed anything."""
    done = clusterctl("up", file)
    assert done.returncode == 5, done.stderr
    for text in texts:
        assert text in done.stderr
    nothing_was_changed(lab)


def test_the_engine_is_down(lab: Lab, file: Path) -> None:
    host.stop_engine(lab.hosts[1])
    try:
        refused(lab, file, f"{lab.hosts[1].name}  docker does not answer", "systemctl start docker")
        status = clusterctl("status", file)
        assert status.returncode == 1
        assert f"! {lab.hosts[1].name}: docker: " in status.stdout
    finally:
        host.start_engine(lab.hosts[1])


def test_the_image_is_missing(lab: Lab, file: Path) -> None:
    docker(lab.hosts[1], "rmi", "clusterctl-lab:1")
    try:
        refused(lab, file, f"{lab.hosts[1].name}  the image clusterctl-lab:1 is not there", "docker pull")
    finally:
        image.import_image(lab.hosts[1], path=lab.image_path)


def test_an_image_that_cannot_be_pulled(lab: Lab, tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["runtime"] |= {"image": "registry.invalid/none:1", "pull": "missing"}

    file = write_inventory(lab, tmp_path / "lab.yaml", change)
    done = clusterctl("up", file)
    assert done.returncode == 7, done.stderr
    assert "Get the image failed on" in done.stderr
    assert "docker pull --quiet registry.invalid/none:1 exited 1" in done.stderr
    assert clusterctl("down", "--yes", file).returncode == 0
    nothing_was_changed(lab)


def test_the_image_has_no_ray(lab: Lab, file: Path) -> None:
    image.import_image(lab.hosts[1])  # its PATH finds a python3 without ray
    try:
        refused(lab, file, f"{lab.hosts[1].name}  the image clusterctl-lab:1 has no ray", "pip install")
    finally:
        image.import_image(lab.hosts[1], path=lab.image_path)


@pytest.mark.parametrize(("port", "key"), [(6379, "ray.port"), (8000, "serve.port")])
def test_a_port_is_taken(lab: Lab, file: Path, port: int, key: str) -> None:
    serve = f"exec setsid --fork python3 -m http.server {port} >/dev/null 2>&1"
    host.run(lab.hosts[0], "sh", "-c", serve)
    listening = f"until ss -ltnH 'sport = :{port}' | grep -q .; do :; done"
    assert host.run(lab.hosts[0], "timeout", "20", "sh", "-c", listening).returncode == 0
    try:
        refused(lab, file, f"{lab.hosts[0].name}  port {port} ({key}) is taken", f"'sport = :{port}'")
    finally:
        pids = host.run(
            lab.hosts[0], "sh", "-c", f"ss -ltnpH 'sport = :{port}' | grep -o 'pid=[0-9]*'"
        ).stdout
        host.run(lab.hosts[0], "kill", *(pid.removeprefix("pid=") for pid in pids.split()))


def test_a_worker_that_dies_while_joining(lab: Lab, file: Path) -> None:
    worker = lab.hosts[1]
    with clusterctl_running("up", file) as up:
        up.until(event="phase_started", phase=JOIN)
        docker(worker, "kill", f"clusterctl-{lab.name}-ray")
        code, stderr = up.end()
    assert code == 7
    assert f"error: {JOIN} failed on 1 of 2 nodes\n  {worker.name}  " in stderr
    assert "exit code 137" in stderr
    assert "run_cluster.sh logs ray" in stderr


def test_a_link_that_goes_down_while_joining(lab: Lab, file: Path) -> None:
    worker = lab.hosts[1]
    with clusterctl_running("up", file) as up:
        up.until(event="phase_started", phase=JOIN)
        host.link_down(worker)
        try:
            code, stderr = up.end()
            assert code == 7
            assert f"error: {JOIN} failed on 1 of 2 nodes\n  {worker.name}  " in stderr
            assert "broke" in stderr
        finally:
            host.link_up(worker)


def test_a_link_that_goes_down_while_the_model_loads(lab: Lab, file: Path) -> None:
    """vLLM dies of it on the head, and the message still says which node it was."""

    def change(content: dict[str, Any]) -> None:
        content["env"] |= {f"RAY_health_check_{name}": value for name, value in SOON.items()}

    write_inventory(lab, file, change)
    worker = lab.hosts[1]
    with clusterctl_running("up", file) as up:
        up.until(event="waiting", why="starting the engine")
        host.link_down(worker)
        try:
            code, stderr = up.end(timeout=200)
            assert code == 7
            assert "error: Wait for a completion failed on 1 of 2 nodes" in stderr
            assert f"{worker.name} ({worker.address}) is missing" in stderr
        finally:
            host.link_up(worker)


def test_an_unknown_vllm_flag_shows_vllms_own_words(lab: Lab, file: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["serve"]["args"]["no_such_flag"] = 1

    write_inventory(lab, file, change)
    done = clusterctl("up", file)
    assert done.returncode == 7
    assert "exit code 2" in done.stderr
    assert "unrecognized arguments: --no-such-flag" in done.stderr
    assert f"The first cause that the logs show: vllm-unknown-argument on {lab.hosts[0].name}" in done.stderr
    doctor = clusterctl("doctor", file, "--json")
    assert doctor.returncode == 1
    assert json.loads(doctor.stdout)["findings"][0]["id"] == "vllm-unknown-argument"


def test_ctrl_c_ends_within_two_seconds_and_says_what_runs(lab: Lab, file: Path) -> None:
    with clusterctl_running("up", file) as up:
        up.until(event="phase_started", phase=JOIN)
        up.process.send_signal(signal.SIGINT)
        code, stderr = up.end(timeout=2)
    assert code == 130
    assert f"error: interrupted during: {JOIN}" in stderr
    assert f"started by now: Ray on {lab.hosts[0].name}, Ray on {lab.hosts[1].name}" in stderr


def test_down_touches_nothing_of_others(lab: Lab, file: Path) -> None:
    """Containers without our label, or with another cluster's, live on."""
    head = lab.hosts[0]
    mounts = [word for mount in lab.mounts for word in ("--volume", mount)]
    for name, label in (("foreign", "team=other"), ("another", "clusterctl.cluster=another")):
        options = ("run", "--detach", "--name", name, "--label", label, *mounts, "clusterctl-lab:1")
        docker(head, *options, "sleep", "1000")
    try:
        with clusterctl_running("up", file) as up:
            up.until(event="phase_done", phase="Start Ray head")
        assert clusterctl("down", "--yes", file).returncode == 0
        assert sorted(docker(head, "ps", "--format", "{{.Names}}").split()) == ["another", "foreign"]
    finally:
        docker(head, "rm", "--force", "foreign", "another")
