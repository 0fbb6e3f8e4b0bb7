"""Nodes that are one function argv -> Result each, in the place where lines are opened."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from lockmodel import Guarded, ModelNode, Written
from proofs import environments, measured, said
from samples import sha256

from cluster import records
from cluster.errors import ConnectionLost
from cluster.healing.roster import newest
from cluster.inventory import Inventory, Node, load
from cluster.inventory.spares import played
from cluster.plan import Plan, make_plan
from cluster.records import audit
from cluster.steps import Argv, Result

Answer = Callable[[Argv], Result | None]
OK = Result(0, "", "")
GPU = "{0}, GPU-{0}, NVIDIA H200, 143771, 0, 580.159.04, Disabled, 0\n"
IMAGE_ID = "sha256:" + "a" * 64


def uptime() -> int:
    """Hundredths of a second, as a node counts them."""
    return int(time.monotonic() * 100)


@dataclass
class FakeNode:
    """What a node has, and what it does when it is asked. `special` answers before the rest does."""

    name: str
    address: str
    gpus: int
    fleet: FakeFleet
    containers: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    special: Answer = lambda _: None
    unreachable: str = ""
    lock: ModelNode = field(default_factory=lambda: ModelNode(uptime))

    # --- the Connection ---

    def run(
        self,
        argv: Argv,
        stdin: str | Iterable[str] = "",
        timeout: float | None = None,  # noqa: ARG002  as a Connection has it
        on_line: Callable[[str], None] | None = None,
    ) -> Result:
        heard = self.lock.hear(argv)
        if isinstance(heard, Result):
            return heard
        if isinstance(heard, Written):
            self.put(heard.path, str(stdin), heard.mode)
            return OK
        if isinstance(heard, Guarded):
            argv = heard.argv
        if not isinstance(stdin, str):
            return self._measure(iter(stdin), on_line)
        if argv == ("sh", "-s"):
            return Result(0, self._facts(stdin), "")
        if records.BEGIN in argv[-1]:
            return self._records(argv[-1])
        if records.FOLDER in " ".join(argv):
            return self._keep(argv)
        self.steps.append(f"{self.name}  {shlex.join(argv)}")
        result = self.special(argv) or self._do(argv)
        if on_line is None:
            return result
        for line in result.stdout.splitlines():
            on_line(line)
        return Result(result.exit_code, "", result.stderr)

    def put(self, path: str, content: str, mode: int) -> None:
        state = f"{records.folder('demo', self.name)}/"
        if path.startswith(state):  # noted, and no step of a deployment
            self.kept[path.removeprefix(state)] = content
            return
        self.steps.append(f"{self.name}  write {path} (mode {mode:04o}, {len(content.encode())} bytes)")
        self.files[path.removeprefix(f".clusterctl/demo/{self.name}/")] = content

    def close(self) -> None:
        self.fleet.closed.append(self.name)

    def _measure(self, stdin: Iterator[str], on_line: Callable[[str], None] | None) -> Result:
        """It listens when it has its program, measures when it is told of its peers, and ends with stdin."""
        assert on_line is not None
        assert "\ntake_part(" in next(stdin)
        on_line(json.dumps({"port": 40001, "udp_port": 40002}))
        for line in stdin:
            on_line(json.dumps({"links": self._links([name for name, *_ in json.loads(line)])}))
        return OK

    def _links(self, peers: list[str]) -> dict[str, Any]:
        good = {
            "connected": True,
            "mtu": 1500,
            "mtu_passes": True,
            "rtt_seconds": 5e-5,
            "bits_per_second": 1e10,
        }
        return {peer: good | self.fleet.links.get((self.name, peer), {}) for peer in peers}

    def _keep(self, argv: Argv) -> Result:
        """What `rm` takes away of it, the audit, and the evidence: the logs of containers that are there."""
        state = f"{records.folder('demo', self.name)}/"
        if audit.FILE in argv[2]:
            self.kept[audit.FILE] = f"{self.kept.get(audit.FILE, '')}{argv[-1]}\n"
        if argv[0] == "rm":
            gone = tuple(f"{path.removeprefix(state)}/" for path in argv[2:])
            self.kept = {path: text for path, text in self.kept.items() if not f"{path}/".startswith(gone)}
        if evidence := re.search(r"(generations/\d+/evidence) && .* mkdir (\w+)\.part ", argv[-1], re.DOTALL):
            roles = [role for role in ("ray", "serve") if f"{role}-{self.name}" in self.containers]
            folder = "/".join(evidence.groups())
            self.kept |= {f"{folder}/log_{role}.log": self.logs.get(role, "") for role in roles}
        return OK

    def _records(self, script: str) -> Result:
        """What is kept beside the lock: the files that the script's patterns match."""
        found = re.search(r"^for file in (.*); do$", script, re.M)
        assert found
        patterns = found[1].split()
        kept = {path: text for path, text in self.kept.items() if any(fnmatch(path, p) for p in patterns)}
        return Result(0, "".join(f"\n{records.BEGIN}{path}\n{text}" for path, text in kept.items()), "")

    # --- what run_cluster.sh, docker and the facts' commands would do ---

    def _do(self, argv: Argv) -> Result:
        if argv[0] == "docker":
            return self._docker(argv[1], argv[-1])
        if argv[:2] == ("sh", "-c"):
            self.files.clear()
            return OK
        if argv[0] == "rm":
            for path in argv[2:]:
                del self.files[path.removeprefix(f".clusterctl/demo/{self.name}/")]
            return OK
        verb, *rest = argv[2:]
        if verb in ("ray", "serve"):
            return self._start(verb)
        if verb == "logs":
            return Result(0, self.logs.get(rest[0], ""), "")
        if verb in ("verify", "attest"):
            return self._prove(verb)
        if verb == "exec":
            return Result(0, f"{self.name} {shlex.join(rest)}\n", "")
        return self._nodes() if verb == "nodes" else self._ask()

    def _docker(self, verb: str, last: str) -> Result:
        if verb == "rm":
            del self.containers[last]
        return OK

    def _start(self, role: str) -> Result:
        start = self.files["run_cluster.sh"].partition(f"start_{role}()")[2]
        labels = {"cluster": "demo", "node": self.name, "role": role}
        labels["generation"] = self.files.get("generation", "").strip()
        for label in ("digest", "port"):
            found = re.search(rf"clusterctl\.{label}=(\w+)", start)
            assert found
            labels[label] = found[1]
        self.containers[f"{role}-{self.name}"] = {
            "Id": f"{role}-{self.name}",
            "Name": f"/clusterctl-demo-{role}",
            "Image": IMAGE_ID,
            "State": {"Running": True, "ExitCode": 0, "StartedAt": "2026-11-21T05:24:26.654017Z"},
            "Config": {"Labels": {f"clusterctl.{key}": value for key, value in labels.items()}},
        }
        return Result(0, f"{role}-{self.name}\n", "")

    def _nodes(self) -> Result:
        if f"ray-{self.name}" not in self.containers:
            return Result(3, "", "clusterctl-demo-ray is not running: no such container\n")
        joined = [node for node in self.fleet.nodes.values() if f"ray-{node.name}" in node.containers]
        found = [{"address": n.address, "name": n.name, "alive": True, "gpus": n.gpus} for n in joined]
        return Result(0, json.dumps({"nodes": found}) + "\n", "")

    def _prove(self, verb: str) -> Result:
        """All is as planned, and NCCL talks over sockets."""
        plan = self.fleet.plan
        if plan.uses_ray and f"ray-{self.name}" not in self.containers:
            return Result(3, "", "clusterctl-demo-ray is not running: no such container\n")
        if verb == "verify":
            return said(measured(plan, plan.member(self.name)))
        serves = any(f"serve-{node.name}" in node.containers for node in self.fleet.nodes.values())
        return said(environments(plan, plan.member(self.name), serves))

    def _ask(self) -> Result:
        if f"serve-{self.name}" not in self.containers:
            return Result(3, "", "clusterctl-demo-serve is not running: no such container\n")
        return Result(0, '{"answer": " Paris.", "seconds": 0.2}\n', "")

    def _last_words(self) -> Result:
        server = self.containers.get(f"serve-{self.name}")
        exited = server is not None and not server["State"]["Running"]
        return Result(0, self.logs.get("serve", ""), "") if exited else OK

    def _facts(self, script: str) -> str:
        names = re.findall(r"=== clusterctl fact (\w+)", script)
        self.asked[:] = names
        answers = {
            "engine": Result(0, "20.10.24\n", ""),
            "containers": Result(0, json.dumps(list(self.containers.values())), ""),
            "image": Result(0, f"{IMAGE_ID}\n", ""),
            "inside": Result(0, '{"python": "3.12.3", "ray": "2.60.0", "vllm": "0.33.0"}\n', ""),
            "gpus": Result(0, "".join(GPU.format(index) for index in range(self.gpus)), ""),
            "hcas": OK,
            "interfaces": Result(
                0,
                f"2: eth0    inet {self.address}/24 brd 10.0.0.255 scope global eth0\n"
                "2: eth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc mq state UP\n",
                "",
            ),
            "listening": OK,
            "files": Result(
                0, "".join(f"{sha256(text)}  ./{path}\n" for path, text in self.files.items()), ""
            ),
            "ray_nodes": self._nodes(),
            "answer": self._ask(),
            "last_words": self._last_words(),
        } | self.fleet.facts.get(self.name, {})

        def answer(name: str) -> Result:
            return answers.get(name, OK)

        return "".join(
            f"\n=== clusterctl fact {name}\n{answer(name).stdout}{answer(name).stderr}"
            f"\n=== clusterctl exit {answer(name).exit_code}\n"
            for name in names
        )


@dataclass
class FakeFleet:
    """All nodes of an inventory, and how often they were reached. `facts` are {node: {fact: Result}}."""

    file: Path
    nodes: dict[str, FakeNode] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    facts: dict[str, dict[str, Result]] = field(default_factory=dict)
    links: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        """Of the inventory as it stands, and as the nodes' roster has it played."""
        out = newest({name: node.kept for name, node in self.nodes.items()}).out
        return make_plan(played(load(self.file), out, looking=True))

    def write(self, text: str) -> None:
        """Write the inventory; nodes that are new in it come into being."""
        self.file.write_text(text)
        content = yaml.safe_load(text)
        for node in content["nodes"] if isinstance(content, dict) and "nodes" in content else ():
            self.nodes.setdefault(node["name"], FakeNode(node["name"], node["address"], node["gpus"], self))

    def opener(self, _: Inventory, stack: ExitStack) -> Callable[[Node], FakeNode]:
        def open_line(node: Node) -> FakeNode:
            line = self.open_line(node)
            stack.callback(line.close)
            return line

        return open_line

    def open_line(self, node: Node) -> FakeNode:
        fake = self.nodes[node.name]
        if fake.unreachable:
            raise ConnectionLost(fake.unreachable)
        self.opened.append(node.name)
        return fake

    def steps(self) -> dict[str, list[str]]:
        """What was done on each node so far; forgets it."""
        done = {name: list(node.steps) for name, node in self.nodes.items()}
        for node in self.nodes.values():
            node.steps.clear()
        return done


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]
