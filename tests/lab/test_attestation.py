"""The environment that really arrives at Ray's processes on real hosts, and who is named where it differs."""

from __future__ import annotations

import base64
import gzip
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tenacity import Retrying, retry_if_result, stop_after_delay

from cluster.errors import Verdict
from cluster.inventory import load
from cluster.lab import host
from cluster.lab.spec import Host, Lab
from cluster.plan import make_plan
from cluster.proof import arrived
from cluster.steps import Result
from tests.reallab import clusterctl, docker, reason_to_skip, running_lab, write_inventory

SKIP = reason_to_skip(engine=True)
pytestmark = pytest.mark.skipif(bool(SKIP), reason=SKIP or "never")

READ = "Read what arrived at Ray"
RAY = str(
    Path(sys.executable).with_name("ray")
)  # the containers see this virtual environment at its own path
WRAPPED = "/root/wrapped-ray"
PLAIN = """\
cluster: {name}
nodes: [{{address: local}}]
runtime: {{engine: process, device: cpu, venv: {venv}}}
ray: {{port: {port}}}
model: {{source: /nowhere, served_name: nothing}}
serve: {{nccl_debug: true}}
"""
# As an image's own `ray` may be: it means well, and has the head's values where it was tried out.
WRAPPER = """\
#!/bin/sh
export GLOO_SOCKET_IFNAME=lo VLLM_HOST_IP={head} NCCL_IB_TIMEOUT=22
unset TP_SOCKET_IFNAME
exec python3 -c 'from ray.scripts.scripts import main; main()' "$@"
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab("e", nodes=2) as lab:
        yield lab


@pytest.fixture
def taken_down(lab: Lab, tmp_path: Path) -> Iterator[None]:
    yield
    file = write_inventory(lab, tmp_path / "plain.yaml")
    assert clusterctl("down", "--yes", file).returncode == 0
    for target in lab.hosts:
        assert docker(target, "ps", "--all", "--quiet") == ""
        assert docker(target, "volume", "ls", "--quiet") == ""


def inventory(lab: Lab, file: Path) -> Path:
    """Of a model that is never loaded: what arrives at Ray is read before."""

    def change(content: dict[str, Any]) -> None:
        content["nodes"][1]["mounts"] = [f"{WRAPPED}:{RAY}:ro"]
        content["serve"]["nccl_debug"] = True

    return write_inventory(lab, file, change)


def write_wrapper(lab: Lab) -> None:
    text = WRAPPER.format(head=lab.hosts[0].address)
    script = f"cat >{WRAPPED} <<'END' && chmod +x {WRAPPED}\n{text}END"
    assert host.run(lab.hosts[1], "sh", "-c", script).returncode == 0


@pytest.mark.usefixtures("taken_down")
def test_a_wrapper_of_ray_is_caught_on_its_node_and_nothing_on_the_other(lab: Lab, tmp_path: Path) -> None:
    head, worker = lab.hosts
    write_wrapper(lab)
    done = clusterctl("up", inventory(lab, tmp_path / "lab.yaml"))
    assert done.returncode == 7, done.stderr
    assert f"error: {READ} failed on 1 of 2 nodes\n  {worker.name}  " in done.stderr
    said = (
        "GLOO_SOCKET_IFNAME is 'lo' in raylet (pid ",
        "expected: 'eth0' [env-overwritten]",
        f"VLLM_HOST_IP is '{head.address}', the head's value, in raylet (pid ",
        f"expected: '{worker.address}' [env-overwritten]",
        "TP_SOCKET_IFNAME is missing in raylet (pid ",
        "expected: 'eth0' [env-missing]",
        "a wrapper of `ray`",
    )
    assert [text for text in said if text not in done.stderr] == []
    (warning,) = (line for line in done.stdout.splitlines() if "[env-unplanned]" in line)
    assert f"{worker.name}  NCCL_IB_TIMEOUT is '22' in raylet (pid " in warning
    what_nccl_wrote_is_brought_along(lab)


def what_nccl_wrote_is_brought_along(lab: Lab) -> None:
    """NCCL itself is not on CPUs: a line stands in the file that it would open in a living process."""
    worker = lab.hosts[1]
    script = f"/root/.clusterctl/{lab.name}/{worker.name}/run_cluster.sh"
    raylet = attested(worker, script)["processes"][0]
    assert raylet["environment"]["NCCL_DEBUG_FILE"] == "/tmp/clusterctl/nccl/%h.%p"
    log = f"/tmp/clusterctl/nccl/{worker.name}.{raylet['pid']}"
    assert host.run(worker, "sh", script, "exec", "sh", "-c", f"echo NCCL INFO x >{log}").returncode == 0
    (found,) = attested(worker, script)["logs"]
    assert (found["pid"], found["cut"]) == (raylet["pid"], False)
    assert gzip.decompress(base64.b64decode(found["gzip"])) == b"NCCL INFO x\n"


def attested(target: Host, script: str) -> dict[str, Any]:
    answer = json.loads(host.run(target, "sh", script, "attest").stdout)
    assert isinstance(answer, dict)
    return answer


def test_with_plain_processes_nothing_is_reported_and_down_leaves_nothing(tmp_path: Path) -> None:
    """On this machine, where other processes of Ray may run beside them."""
    name = f"t{os.getpid() % 100000}p"
    file = tmp_path / "plain.yaml"
    file.write_text(PLAIN.format(name=name, venv=Path(sys.executable).parent.parent, port=free_port()))
    assert clusterctl("render", file, "-o", tmp_path).returncode == 0
    script = tmp_path / "local" / "run_cluster.sh"
    try:
        assert sh(script, "ray").returncode == 0
        joined = Retrying(stop=stop_after_delay(60), retry=retry_if_result(not_joined))
        joined(sh, script, "nodes")
        plan = make_plan(load(file))
        answer = sh(script, "attest")
        judgement = arrived.judge(plan, {}, (), {"local": Result(0, answer.stdout, answer.stderr)})
        assert judgement.verdict == Verdict()
        (raylet,) = [one for one in judgement.content["environments"]["local"] if one["what"] == "raylet"]
        folder = Path(raylet["environment"]["NCCL_DEBUG_FILE"]).parent
        assert folder.is_dir()
    finally:
        assert sh(script, "down").returncode == 0
    assert not folder.parent.exists()


def not_joined(done: subprocess.CompletedProcess[str]) -> bool:
    return done.returncode != 0 or '"alive": true' not in done.stdout


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def sh(script: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(("sh", script, *words), capture_output=True, text=True, timeout=60)
