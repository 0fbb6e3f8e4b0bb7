"""Two lab hosts on which a failure is provoked, and the logs of it as an operator would collect them.

What runs is what `clusterctl render` writes, started by hand: no preflight stands before a failure.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cluster.commands.render import render
from cluster.lab import host, image
from cluster.lab.lab_inventory import inventory_text
from cluster.lab.spec import Host, Lab

HERE = "/root/cluster"
MODELS = "/srv/models"  # of each host, in its containers too: a case can spoil its own copy of the model
LARGEST_PLAIN = 30_000  # bytes; what is larger is compressed
LARGEST = 300_000  # bytes of text; of a longer log the first and the last half of that

# Kernel messages of the lab's own cables, and of the machine that carries it.
NOT_OF_A_HOST = re.compile("bridge: port|multicast mode|promiscuous mode|renamed from|tainted|Hardware name")

Content = dict[str, Any]
Change = Callable[[Content], object]


def unchanged(_: Content) -> None:
    """The lab's own inventory."""


@dataclass
class Stage:
    """`folder` is the case's; the programs run on `lab`, whose second host is the Ray worker."""

    lab: Lab
    folder: Path
    rendered: Content = field(default_factory=dict)
    began: float = field(default_factory=time.time)
    programs: list[tuple[Host, str]] = field(default_factory=list)  # (node, process id) to end afterwards

    @property
    def head(self) -> Host:
        return self.lab.hosts[0]

    @property
    def worker(self) -> Host:
        return self.lab.hosts[1]

    def begin(self, folder: Path) -> None:
        """A new case: what the one before has left running stays, if it is a healthy Ray."""
        self.folder, self.began = folder, time.time()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def sh(self, node: Host, script: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return host.run(node, "sh", "-c", script, timeout=timeout)

    # What is deployed

    def write_scripts(self, change: Change = unchanged) -> None:
        """Render the lab's inventory, changed, into every host."""
        content = yaml.safe_load(inventory_text(self.lab))
        content["runtime"]["mounts"].append(f"{MODELS}:{MODELS}:ro")
        change(content)
        self.rendered = content
        inventory = self.lab.directory / "provoke.yaml"
        output = self.lab.directory / "provoke"
        inventory.write_text(yaml.safe_dump(content, sort_keys=False))
        shutil.rmtree(output, ignore_errors=True)
        assert render(inventory, output) == 0
        for node in self.lab.hosts:
            if (output / node.name).exists():  # a change may leave a node out
                # In place: a running container has this very folder mounted.
                shutil.copytree(output / node.name, node.root / HERE.lstrip("/"), dirs_exist_ok=True)
            (node.root / MODELS.lstrip("/")).mkdir(parents=True, exist_ok=True)

    def edit(self, node: Host, name: str, old: str, new: str) -> None:
        """Change a rendered file by hand, as operators do."""
        file = node.root / HERE.lstrip("/") / name
        text = file.read_text()
        assert old in text, f"{name} of {node.name} has no {old!r}"
        file.write_text(text.replace(old, new))

    def add_to_env(self, node: Host, line: str) -> None:
        with (node.root / HERE.lstrip("/") / "env").open("a") as file:
            file.write(f"{line}\n")

    def add_file(self, node: Host, path: str, text: str) -> None:
        file = node.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    # What runs

    def container(self, role: str) -> str:
        return f"clusterctl-{self.lab.name}-{role}"

    def start(self, node: Host, role: str) -> bool:
        """Start Ray or the server; what `docker run` complains of becomes the node's docker log."""
        done = self.sh(node, f"sh {HERE}/run_cluster.sh {role}")
        if done.returncode:
            self.save(node, "docker", done.stderr)
        return done.returncode == 0

    def ray_cluster(self, change: Change = unchanged, nodes: int = 2) -> None:
        """Ray on the head and the worker, joined; a healthy one of the case before is used again."""
        self.clear()
        self.write_scripts(change)
        self.start(self.head, "ray")
        self.until(self.head, "ray", "Ray runtime started", 60)
        if nodes > 1:
            self.start(self.worker, "ray")
        assert self.joined(nodes), "Ray did not join"

    def have_ray(self) -> None:
        """A joined Ray of both nodes: the one of the case before, if it is still whole."""
        if self.rendered and self.joined(2, timeout=0):
            self.stop_server()
        else:
            self.ray_cluster()

    def joined(self, nodes: int, timeout: float = 120) -> bool:
        def alive() -> bool:
            done = self.sh(self.head, f"sh {HERE}/run_cluster.sh nodes")
            found = json.loads(done.stdout)["nodes"] if done.returncode == 0 else []
            return sum(node["alive"] for node in found) >= nodes

        return until(alive, timeout)

    def serve(self, change: Change = unchanged, ready: str = "Application startup complete") -> bool:
        """vLLM on the Ray cluster that is there, until it says so, ends, or 4 minutes have passed."""
        self.write_scripts(change)
        return self.serve_as_written(ready)

    def serve_as_written(self, ready: str = "Application startup complete", timeout: float = 240) -> bool:
        self.start(self.head, "serve")
        return self.until(self.head, "serve", ready, timeout)

    def until(self, node: Host, role: str, text: str, timeout: float) -> bool:
        """Whether the container's log came to have this text before it ended."""
        found = until(lambda: text in self.log(node, role) or not self.runs(node, role), timeout)
        return found and text in self.log(node, role)

    def ended(self, node: Host, role: str, timeout: float) -> bool:
        return until(lambda: not self.runs(node, role), timeout)

    def runs(self, node: Host, role: str) -> bool:
        done = host.run(node, "docker", "inspect", "--format", "{{.State.Running}}", self.container(role))
        return done.stdout.strip() == "true"

    def log(self, node: Host, role: str) -> str:
        done = self.sh(node, f"docker logs --timestamps {self.container(role)} 2>&1")
        return done.stdout if done.returncode == 0 else ""

    def ask(self) -> str:
        done = self.sh(self.head, f"sh {HERE}/run_cluster.sh ask", timeout=180)
        return done.stdout + done.stderr

    def pids(self, node: Host, words: str) -> list[str]:
        """Processes of a host, by their command line."""
        return self.sh(node, f"ps -eo pid=,args= | grep -e {words!r} | grep -v grep").stdout.split("\n")

    def kill(self, node: Host, words: str) -> None:
        """SIGKILL to the first process whose command line has these words."""
        pid = self.pids(node, words)[0].split()[0]
        host.run(node, "kill", "-9", pid)

    def background(self, node: Host, command: str) -> None:
        """A program beside the cluster, ended with the case."""
        pid = self.sh(node, f"{command} >/dev/null 2>&1 </dev/null & echo $!").stdout.strip()
        self.programs.append((node, pid))

    # What is kept

    def save(self, node: Host, program: str, text: str) -> None:
        """As NODE.PROGRAM.log, behind what is there already."""
        if not text.strip():
            return
        plain = self.folder / f"{node.name}.{program}.log"
        before = plain.read_text() if plain.exists() else ""
        plain.write_text(before + text)

    def keep_container_logs(self) -> None:
        for node in self.lab.hosts:
            if host.engine_answers(node):
                for role in ("ray", "serve"):
                    self.keep_container_logs_of(node, role)

    def keep_container_logs_of(self, node: Host, role: str) -> None:
        self.save(node, role, self.log(node, role))

    def keep_session_logs(self, node: Host, *names: str) -> None:
        """Ray's own files, from a container that may have ended."""
        there = f"/root/session-{time.time_ns()}"
        done = self.sh(node, f"docker cp {self.container('ray')}:/tmp/ray {there}")
        logs = node.root / there.lstrip("/")
        for name in names:
            for file in sorted(logs.glob(f"session_2*/logs/{name}")):
                self.save(node, file.stem + file.suffix.replace(".", "_"), file.read_text(errors="replace"))
        assert done.returncode == 0, done.stderr
        shutil.rmtree(logs, ignore_errors=True)

    def keep_kernel_log(self, node: Host) -> None:
        """From this case's beginning on; all hosts share one kernel."""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.began))
        said = self.sh(node, f"dmesg --time-format iso --since '{since}'").stdout.splitlines(keepends=True)
        self.save(node, "dmesg", "".join(line for line in said if not NOT_OF_A_HOST.search(line)))

    def finish(self) -> None:
        """Keep the containers' logs, and bring the files to their size."""
        self.keep_container_logs()
        for file in self.folder.glob("*.log"):
            text = _shortened(_without_paths(file.read_text(), self._paths()))
            file.write_text(text)
            if len(text) > LARGEST_PLAIN:
                file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
                file.unlink()

    def _paths(self) -> Iterable[tuple[str, str]]:
        """This machine's own paths, and what stands for them."""
        packages = next(Path(self.lab.venv, "lib").glob("python3*"))
        return (
            (str(packages), f"/opt/venv/lib/{packages.name}"),
            (self.lab.venv, "/opt/venv"),
            (sys.base_prefix, "/usr/local"),
            (str(self.lab.directory), "/root/lab"),
        )

    def drop(self) -> None:
        """Nothing was captured."""
        shutil.rmtree(self.folder, ignore_errors=True)

    # What is taken away

    def clear(self) -> None:
        """Both hosts as new."""
        for node in self.lab.hosts:
            if not host.engine_answers(node):
                host.start_engine(node)
            for one in host.run(node, "docker", "ps", "--all", "--quiet").stdout.split():
                host.run(node, "docker", "rm", "--force", "--volumes", one)
            shutil.rmtree(node.root / HERE.lstrip("/"), ignore_errors=True)
            self.sh(node, "iptables -F; ip link set eth0 up; ip route replace default via " + node.gateway)
        for node, pid in self.programs:
            host.run(node, "kill", "-9", pid)
        self.programs.clear()

    def stop(self, role: str, *nodes: Host) -> None:
        for node in nodes:
            host.run(node, "docker", "stop", "-t", "10", self.container(role))

    def stop_server(self) -> None:
        self.sh(self.head, f"docker rm --force --volumes {self.container('serve')}")

    def restore_image(self, node: Host) -> None:
        image.import_image(node, path=self.lab.image_path)


def until(ready: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not (done := ready()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return done


def _shortened(text: str) -> str:
    if len(text) <= LARGEST:
        return text
    half = LARGEST // 2
    return text[:half].rpartition("\n")[0] + "\n" + text[-half:].partition("\n")[2]


def _without_paths(text: str, replacements: Iterable[tuple[str, str]]) -> str:
    for old, new in replacements:
        text = text.replace(old, new)
    return text
