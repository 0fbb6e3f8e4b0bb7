"""The main job on real hosts: from an inventory to a model that answers, and back to nothing."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from cluster.lab import host
from cluster.lab.spec import Host, Lab
from tests.reallab import clusterctl, docker, reason_to_skip, running_lab, write_inventory

SKIP = reason_to_skip(engine=True, serves=True)
pytestmark = pytest.mark.skipif(bool(SKIP), reason=SKIP or "never")

QUESTION = "What is the capital of France?"
# Whether each of some texts stands anywhere in what a process may write to.
SEARCH_MEMORY = """
import sys
pid, *texts = sys.argv[1:]
found = dict.fromkeys(texts, False)
with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
    for addresses, mode, *_ in map(str.split, maps):
        first, last = (int(address, 16) for address in addresses.split("-"))
        if mode.startswith("rw") and last - first < 1 << 30:
            try:
                memory.seek(first)
                block = memory.read(last - first)
            except OSError:
                continue
            found = {text: known or text.encode() in block for text, known in found.items()}
print(*found.values())
"""


def bring_up(file: Path) -> list[dict[str, Any]]:
    """`up --json`, which has to end well; its events."""
    done = clusterctl("up", file, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def status(file: Path) -> tuple[int, dict[str, Any]]:
    done = clusterctl("status", file, "--json")
    return done.returncode, json.loads(done.stdout)


def ask(lab: Lab, head: Host | None = None) -> str:
    """A chat completion by OpenAI's own client, from outside the hosts; the first one is the head."""
    with OpenAI(base_url=f"http://{(head or lab.hosts[0]).address}:8000/v1", api_key="none") as client:
        answer = client.chat.completions.create(
            model="smollm2",
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=20,
            timeout=120,
        )
    return str(answer.choices[0].message.content)


def traces(target: Host) -> dict[str, list[str]]:
    """What a deployment could leave on a host."""

    def lines(*argv: str) -> list[str]:
        return sorted(host.run(target, *argv).stdout.splitlines())

    return {
        "containers": docker(target, "ps", "--all", "--quiet").split(),
        "volumes": docker(target, "volume", "ls", "--quiet").split(),
        "processes": lines("ps", "-eww", "-o", "args="),
        "mounts": lines("sh", "-c", "cut -d' ' -f5 /proc/self/mountinfo"),
        "files": [*lines("find", "/root", "-maxdepth", "3"), *lines("find", "/tmp", "/dev/shm")],
        "ports": lines("sh", "-c", "ss -ltnH | awk '{ print $4 }'"),
    }


def without_passing(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Without what is not a deployment's.

    The command that looks, sshd's end of a connection that is just closing, and the engine's own mount of
    the host's network, which it makes for its first container and keeps.
    """
    passing = ("ps -eww", "sshd: ", "sshd-session")
    return {
        **found,
        "processes": [line for line in found["processes"] if not line.startswith(passing)],
        "mounts": [line for line in found["mounts"] if line != "/run/docker/netns/default"],
    }


def rendered_files(file: Path, folder: Path, node: str) -> dict[str, str]:
    assert clusterctl("render", file, "-o", folder).returncode == 0
    root = folder / node
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def files_on(target: Host, folder: str) -> dict[str, str]:
    paths = host.run(target, "find", folder, "-type", "f").stdout.split()
    return {path.removeprefix(f"{folder}/"): host.run(target, "cat", path).stdout for path in paths}


@pytest.mark.parametrize(
    ("nodes", "gpus", "sizes"), [(2, 1, (1, 2)), (3, 1, (1, 3)), (1, 3, (3, 1))], ids=["2x1", "3x1", "1x3"]
)
def test_up_answers_and_down_leaves_nothing(
    nodes: int, gpus: int, sizes: tuple[int, int], tmp_path: Path
) -> None:
    with running_lab("s", nodes, gpus) as lab:
        file = write_inventory(lab, tmp_path / "lab.yaml", give_the_head_a_variable)
        before = [without_passing(traces(target)) for target in lab.hosts]

        events = bring_up(file)
        last = events[-1]
        assert (last["event"], last["model"]) == ("serving", "smollm2")
        assert "Paris" in ask(lab)

        code, found = status(file)
        assert (code, found["state"], found["missing"]) == (0, "serving", [])
        assert [node["gpus"] for node in found["nodes"]] == [{"expected": gpus, "joined": gpus}] * nodes
        assert found["ray"] == {"nodes_alive": nodes, "gpus_total": nodes * gpus}
        serve = found["serve"]
        assert (serve["tensor_parallel_size"], serve["pipeline_parallel_size"]) == sizes

        what_vllm_reports_is_what_was_predicted(events, found["kv_cache"])

        assert [event["event"] for event in bring_up(file)] == ["nothing_to_do"]
        assert "nothing to do" in clusterctl("up", "--dry-run", file).stdout

        if nodes == 2:
            what_else_a_running_cluster_shows(lab, file, tmp_path)
            what_arrived_is_what_was_planned(lab, file)
            a_rank_does_not_take_over_what_is_the_heads_own(lab.hosts[1])
            a_dead_worker_is_named_and_brought_back(lab, file)

        assert clusterctl("down", "--yes", "--purge", file).returncode == 0
        for target, found in zip(lab.hosts, before, strict=True):
            for kind, left in without_passing(traces(target)).items():
                assert left == found[kind], f"{kind} on {target.name}"
        assert status(file)[1]["state"] == "down"
        assert "nothing to do" in clusterctl("down", "--yes", file).stdout


def what_vllm_reports_is_what_was_predicted(
    events: list[dict[str, Any]], cache: dict[str, dict[str, float]]
) -> None:
    """Within 2 %, by `up` before anything was loaded and by `status` beside vLLM's own figures."""
    (prediction,) = (event for event in events if event["event"] == "prediction")
    for key in ("kv_tokens", "max_concurrency"):
        assert cache["reported"][key] == pytest.approx(prediction[key], rel=0.02)
        assert cache["predicted"][key] == prediction[key]


def what_else_a_running_cluster_shows(lab: Lab, file: Path, tmp_path: Path) -> None:
    """The files on the nodes are those of `render`; exec and logs reach every container."""
    for target in lab.hosts:
        there = files_on(target, f"/root/.clusterctl/{lab.name}/{target.name}")
        assert there.pop("generation") == "1\n"
        assert there == rendered_files(file, tmp_path / "rendered", target.name)

    check = clusterctl("check", file, "--json")
    assert (check.returncode, json.loads(check.stdout)["problems"]) == (0, [])
    assert json.loads(clusterctl("doctor", file, "--json").stdout)["ok"]

    where = clusterctl(
        "exec", file, "--", "sh", "-c", 'echo "$VLLM_HOST_IP $GLOO_SOCKET_IFNAME $NCCL_SOCKET_IFNAME"'
    )
    assert where.stdout.splitlines() == [f"{one.name}  {one.address} eth0 =eth0" for one in lab.hosts]
    one = clusterctl("exec", file, "--node", lab.hosts[1].name, "--json", "--", "sh", "-c", "exit 4")
    assert one.returncode == 1
    assert json.loads(one.stdout)["exit_code"] == 4

    log = [json.loads(line) for line in clusterctl("logs", file, "--json").stdout.splitlines()]
    assert {(line["node"], line["role"]) for line in log} == {
        (lab.hosts[0].name, "ray"),
        (lab.hosts[0].name, "serve"),
        (lab.hosts[1].name, "ray"),
    }
    assert [line["time"] for line in log] == sorted(line["time"] for line in log)
    assert any("Application startup complete" in line["text"] for line in log)


def give_the_head_a_variable(content: dict[str, Any]) -> None:
    content["nodes"][0]["env"] = {"UCX_NET_DEVICES": "only-on-the-head"}


def what_arrived_is_what_was_planned(lab: Lab, file: Path) -> None:
    """`verify --live` sees Ray, the server, its engine and every rank, and finds nothing."""
    live = clusterctl("verify", "--live", file, "--json")
    assert live.returncode == 0, live.stderr
    events = [json.loads(line) for line in live.stdout.splitlines()]
    assert [event for event in events if event["event"] in ("error", "warning")] == []
    (judged,) = (event for event in events if event["event"] == "judged")
    assert judged["verdict"] == "socket"
    kinds = {node: {one["kind"] for one in found} for node, found in judged["environments"].items()}
    head, worker = (target.name for target in lab.hosts)
    assert kinds == {head: {"ray", "server", "engine", "rank"}, worker: {"ray", "rank"}}


def a_rank_does_not_take_over_what_is_the_heads_own(worker: Host) -> None:
    """What vLLM's executor copies is set with setenv: /proc/PID/environ does not show it, the memory does."""
    rank = "ps -eo pid=,args= | awk '/[r]ay::RayWorkerProc/ { print $1 }'"
    pid = host.run(worker, "sh", "-c", rank).stdout.split()[0]
    found = host.run(worker, "python3", "-c", SEARCH_MEMORY, pid, "UCX_NET_DEVICES=", "VLLM_CONFIG_ROOT=")
    assert found.stdout.split() == ["False", "True"], found.stderr


def a_dead_worker_is_named_and_brought_back(lab: Lab, file: Path) -> None:
    """Its container killed: the status names it, and the next `up` starts it and vLLM, not the head's Ray."""
    worker = lab.hosts[1]
    docker(worker, "kill", f"clusterctl-{lab.name}-ray")
    code, found = status(file)
    assert (code, found["state"]) == (1, "degraded")
    assert f"{worker.name}: the ray container exited with code 137" in found["missing"]
    doctor = clusterctl("doctor", file, "--json")
    first = json.loads(doctor.stdout)["findings"][0]
    assert doctor.returncode == 1
    assert (first["kind"], first["node"]) == ("root", worker.name), first

    phases = [event["phase"] for event in bring_up(file) if event["event"] == "phase_started"]
    assert "Start Ray workers" in phases
    assert "Start Ray head" not in phases
    assert "Paris" in ask(lab)


def test_the_api_is_reached_at_the_address_that_status_names(tmp_path: Path) -> None:
    """Before anything runs there, the port is closed: what answered above was ours."""
    with running_lab("p", nodes=1) as lab:
        url = status(write_inventory(lab, tmp_path / "lab.yaml"))[1]["serve"]["url"]
        assert url == f"http://{lab.hosts[0].address}:8000"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((lab.hosts[0].address, 8000), timeout=2)
