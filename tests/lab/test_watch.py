"""The watcher beside a real vLLM: an engine stopped behind a healthy /health, and a worker that is killed."""

from __future__ import annotations

import contextlib
import threading
import time
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI, OpenAIError

from cluster import fleet
from cluster.inventory import load
from cluster.lab import host
from cluster.lab.spec import IMAGE, Host, Lab
from cluster.liveness import counters
from cluster.liveness.counters import MARKS
from cluster.plan import make_plan
from cluster.render import node_files
from tests.reallab import (
    Running,
    clusterctl,
    clusterctl_running,
    docker,
    reason_to_skip,
    running_lab,
    write_inventory,
)

SKIP = reason_to_skip(engine=True, serves=True)
pytestmark = pytest.mark.skipif(bool(SKIP), reason=SKIP or "never")

INTERVAL, WEDGED_AFTER = 2.0, 10.0


def watch_closely(content: dict[str, Any]) -> None:
    content["watch"] = {"interval": INTERVAL, "wedged_after": WEDGED_AFTER}
    content["serve"]["args"]["max_num_batched_tokens"] = 32  # a prompt of many chunks


def test_what_a_real_server_shows(tmp_path: Path) -> None:
    with running_lab("w", nodes=2) as lab:
        file = write_inventory(lab, tmp_path / "lab.yaml", watch_closely)
        once = clusterctl("watch", "--once", file)
        assert (once.returncode, " down " in once.stdout) == (1, True), once.stdout
        assert clusterctl("up", file).returncode == 0
        once = clusterctl("watch", "--once", file)
        assert once.returncode == 0, once.stdout + once.stderr
        with clusterctl_running("watch", file) as watching:
            watching.until(event="liveness", state="idle")
            a_long_prompt_moves_the_kv_cache_and_no_token_counter(lab)
            a_stopped_engine_is_found_behind_a_healthy_health(lab, watching)
            a_killed_worker_is_found_under_load(lab, watching)
        states = [event["state"] for event in watching.events]
        assert [states.count(alarm) for alarm in ("wedged", "dead")] == [1, 1], states


# In the place of vLLM: counts on with every look, and takes its time for one.
STUB = """
import http.server, time

class Server(http.server.BaseHTTPRequestHandler):
    looks = 0

    def do_GET(self):
        if self.path == "/metrics":
            Server.looks += 1
            time.sleep(1.5)
        text = f"vllm:generation_tokens_total {Server.looks}.0\\nvllm:num_requests_running 1.0\\n"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

http.server.ThreadingHTTPServer(("", 8000), Server).serve_forever()
"""


def test_containers_that_end_while_they_are_looked_at(tmp_path: Path) -> None:
    """A worker's is killed, and the server's a moment later, while observe.py runs in it. Real engines, and a
    stub in the place of vLLM, which as vLLM's lives among the processes of Ray's container.
    """
    with running_lab("x", nodes=2) as lab:
        file = write_inventory(lab, tmp_path / "lab.yaml", watch_closely)
        put_files(file)
        head, worker = lab.hosts
        for target in lab.hosts:
            start(lab, target, "ray", "sleep", "98765")
        start(lab, head, "serve", "python3", "-c", STUB)
        took = []
        with clusterctl_running("watch", file) as watching:
            for _ in range(3):
                watching.until(event="liveness", state="busy")
                docker(worker, "kill", f"clusterctl-{lab.name}-ray")
                began = time.monotonic()
                docker(head, "kill", f"clusterctl-{lab.name}-serve")
                dead = watching.until(event="liveness", state="dead")
                took.append(time.monotonic() - began)
                assert dead["nodes"][worker.name] == "the ray container exited with code 137"
                docker(worker, "start", f"clusterctl-{lab.name}-ray")
                docker(head, "start", f"clusterctl-{lab.name}-serve")
        print(f"\nboth containers killed: dead after {', '.join(f'{seconds:.1f}' for seconds in took)} s")
        assert max(took) < 30, [(look["time"], look["state"], look["why"]) for look in watching.events]


def put_files(file: Path) -> None:
    """What `up` would write."""
    inventory = load(file)
    with fleet.connect(inventory) as lines:
        for member in make_plan(inventory).members:
            for one in node_files(make_plan(inventory), member):
                lines.connections[member.name].put(f"{member.folder}/{one.path}", one.content, one.mode)


def start(lab: Lab, target: Host, role: str, *argv: str) -> None:
    """A container as `up` would name it, with what is given in the place of Ray or vLLM."""
    labels = {"cluster": lab.name, "node": target.name, "role": role}
    words = [word for key, value in labels.items() for word in ("--label", f"clusterctl.{key}={value}")]
    folder = f"/root/.clusterctl/{lab.name}/{target.name}"
    mounts = [word for mount in (f"{folder}:/clusterctl:ro", *lab.mounts) for word in ("--volume", mount)]
    name = f"clusterctl-{lab.name}-{role}"
    beside = ("--pid", f"container:clusterctl-{lab.name}-ray") if role == "serve" else ()
    options = ("--detach", "--network", "host", "--name", name, *beside, *words, *mounts)
    docker(target, "run", *options, IMAGE, *argv)


def a_long_prompt_moves_the_kv_cache_and_no_token_counter(lab: Lab) -> None:
    """What vLLM counts while it works through the chunks of one prompt: looks in a row, until it answers."""
    looks = []
    with OpenAI(base_url=url(lab), api_key="none", max_retries=0) as client:
        prompt = "word " * 900
        asking = threading.Thread(
            target=lambda: client.completions.create(
                model="smollm2", prompt=prompt, max_tokens=1, timeout=120
            )
        )
        asking.start()
        while asking.is_alive():
            looks.append(counters(fetched(lab, "/metrics")[1]))
        asking.join()
    moved = [
        {name.split()[0] for name in now.marks if now.marks[name] != before.marks[name]}
        for before, now in pairwise(looks)
        if before is not None and now is not None
    ]
    steps = [names for names in moved if names == {"vllm:kv_cache_usage_perc"}]
    print(
        f"\na prompt of 900 tokens, 32 a chunk: in {len(steps)} of {len(looks)} looks only the KV cache moved"
    )
    assert steps


def a_stopped_engine_is_found_behind_a_healthy_health(lab: Lab, watching: Running) -> None:
    head = lab.hosts[0]
    engine = process_in(head, f"clusterctl-{lab.name}-serve", "EngineCore")
    host.run(head, "kill", "-STOP", engine)
    began = time.monotonic()
    wedged = watching.until(event="liveness", state="wedged")
    took = time.monotonic() - began
    assert fetched(lab, "/health")[0] == 200
    assert "/health says 200" in wedged["why"]
    assert took < 2 * WEDGED_AFTER + 8 * INTERVAL
    host.run(head, "kill", "-CONT", engine)
    began = time.monotonic()
    watching.until(event="liveness", state="idle")
    del watching.events[watching.events.index(wedged) + 1 : -1]  # looks until it had gone on
    print(
        f"\nan idle engine that is stopped: wedged after {took:.1f} s (wedged_after is {WEDGED_AFTER:g} s); "
        f"let go on: idle after {time.monotonic() - began:.1f} s"
    )


def a_killed_worker_is_found_under_load(lab: Lab, watching: Running) -> None:
    worker = lab.hosts[1]
    with requests(lab):
        watching.until(event="liveness", state="busy", running=8, waiting=4)
        counted = counters(fetched(lab, "/metrics")[1])
        assert counted is not None
        assert (counted.running, counted.waiting) == (8, 4)
        assert {name.split()[0] for name in counted.marks} == set(MARKS) - {"vllm:gpu_cache_usage_perc"}
        docker(worker, "kill", f"clusterctl-{lab.name}-ray")
        began = time.monotonic()
        dead = watching.until(event="liveness", state="dead")
        took = time.monotonic() - began
    print(f"a worker's container killed under load: dead after {took:.1f} s")
    assert dead["nodes"][worker.name] == "the ray container exited with code 137"
    assert took < 30, [(look["time"], look["state"], look["why"]) for look in watching.events[-20:]]


def process_in(target: Host, container: str, title: str) -> str:
    """The process id, as the host has it, of what bears a title in a container."""
    rows = docker(target, "top", container, "-eo", "pid,args").splitlines()
    (found,) = (row.split()[0] for row in rows if title in row)
    return found


def url(lab: Lab) -> str:
    return f"http://{lab.hosts[0].address}:8000/v1"


def fetched(lab: Lab, path: str) -> tuple[int, str]:
    """(HTTP status, text) from the server, asked from outside the hosts."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{lab.hosts[0].address}:8000{path}", timeout=10) as response:
        return int(response.status), response.read().decode()


@contextlib.contextmanager
def requests(lab: Lab) -> Iterator[None]:
    """Twelve clients that ask for long answers, four more than run at once."""
    over = threading.Event()

    def ask() -> None:
        with OpenAI(base_url=url(lab), api_key="none", max_retries=0) as client:
            while not over.is_set():
                try:
                    client.completions.create(
                        model="smollm2", prompt="Once upon a time", max_tokens=40, timeout=20
                    )
                except OpenAIError:
                    over.wait(0.5)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
