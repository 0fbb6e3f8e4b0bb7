"""All nodes in memory, and what holds between them: who has joined which Ray, whose ranks a server has."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from fakes import FakeFleet
from trees import Tree, tree, write_tree
from worldnode import Container, WorldNode

from cluster.errors import ConnectionLost
from cluster.healing import roster
from cluster.inventory import load
from cluster.inventory.spares import played
from cluster.plan import Plan, make_plan

HOUR = 3600
# What a script that looks for evidence must not ask of the machine that runs the tests.
NOT_THIS_MACHINES = ("docker", "dmesg", "journalctl", "nvidia-smi", "ibv_devinfo", "ps")


@dataclass
class World(FakeFleet):
    """`home` is the folder in which each node has its own, `seconds` what has passed on their clocks."""

    home: Path = Path()
    seconds: int = 0

    def __post_init__(self) -> None:
        self.programs.mkdir()
        for name in NOT_THIS_MACHINES:
            (self.programs / name).write_text("#!/bin/sh\necho nothing to say\n")
            (self.programs / name).chmod(0o755)

    @property
    def programs(self) -> Path:
        """What scripts find before this machine's own."""
        return self.home / "bin"

    @property
    def plan(self) -> Plan:
        """Of the inventory as it stands, as it is played by the roster that the nodes carry."""
        return make_plan(played(load(self.file), roster.newest(self.kept()).out))

    def kept(self) -> dict[str, dict[str, str]]:
        """{node: what clusterctl keeps there}."""
        return {node.name: node.kept_files() for node in self.all()}

    def node(self, name: str) -> WorldNode:
        found = self.nodes[name]
        assert isinstance(found, WorldNode)
        return found

    def all(self) -> Iterator[WorldNode]:
        return (self.node(name) for name in self.nodes)

    def write(self, text: str) -> None:
        self.file.write_text(text)
        for node in yaml.safe_load(text)["nodes"]:
            if node["name"] not in self.nodes:
                self._add(node["name"], node["address"], node["gpus"])

    def _add(self, name: str, address: str, gpus: int) -> None:
        node = WorldNode(name, address, gpus, self, home=self.home / name / "home")
        node.home.mkdir(parents=True)
        self.nodes[name] = node

    def now(self) -> str:
        """Each container starts a second after the one before."""
        self.seconds += 1
        return f"2026-11-21T{self.seconds // 3600:02}:{self.seconds // 60 % 60:02}:{self.seconds % 60:02}Z"

    def rays(self) -> dict[str, Container]:
        """{node: its Ray container}, of all that run."""
        found = {node.name: node.running("ray") for node in self.all()}
        return {name: ray for name, ray in found.items() if ray}

    def head_for(self, script: str) -> str | None:
        """The id of the head's container that a worker's script joins, if it runs."""
        heads = (
            ray for name, ray in self.rays().items() if ray["Head"] and self.nodes[name].address in script
        )
        return next((str(head["Id"]) for head in heads), None)

    def joined(self, node: WorldNode) -> dict[str, Container]:
        """{node: its Ray container}, of all nodes in the same Ray as this one."""
        own = node.running("ray")
        return {name: ray for name, ray in self.rays().items() if own and ray["Joined"] == own["Joined"]}

    def has_gpus(self, server: Container) -> bool:
        ranks = [self.nodes[name].gpus for name, ray in self.rays().items() if ray["Id"] in server["Ranks"]]
        return sum(ranks) >= int(server["Wants"])

    def settle(self) -> None:
        """A worker ends without its head, and a server without one of its ranks."""
        heads = {ray["Id"] for ray in self.rays().values() if ray["Head"]}
        for ray in self.rays().values():
            if ray["Joined"] not in heads:
                ray["State"] |= {"Running": False, "ExitCode": 1}
        ranks = {ray["Id"] for ray in self.rays().values()}
        for node in self.all():
            server = node.running("serve")
            if server is not None and not set(server["Ranks"]) <= ranks:
                server["State"] |= {"Running": False, "ExitCode": 1}

    def open_line(self, node: Any) -> Any:
        found = self.nodes[node.name]
        if found.unreachable:
            raise ConnectionLost(found.unreachable)
        return found

    # --- to begin again from the same ---

    def mend(self) -> None:
        """Every node can be reached."""
        for node in self.all():
            node.unreachable = ""

    def forget_holder(self, same_machine: bool) -> None:
        """Whoever held the lock has ended; seen from its own machine, or an hour later from another."""
        for node in self.all():
            if same_machine:
                node.lock.text = re.sub(r"^pid=.*", "pid=0", node.lock.text, flags=re.M)
            else:
                node.lock.text = re.sub(r"^machine=.*", "machine=laptop", node.lock.text, flags=re.M)
        self.seconds += 0 if same_machine else HOUR

    def save(self) -> Saved:
        return Saved(
            self.file.read_text(),
            {node.name: copy.deepcopy(node.containers) for node in self.all()},
            {node.name: tree(node.home) for node in self.all()},
            {node.name: node.lock.text for node in self.all()},
            {node.name: node.unreachable for node in self.all()},
        )

    def restore(self, saved: Saved) -> None:
        self.file.write_text(saved.inventory)
        for node in self.all():
            node.containers = copy.deepcopy(saved.containers[node.name])
            node.unreachable = saved.unreachable[node.name]
            node.lock.text = saved.locks[node.name]
            write_tree(node.home, saved.files[node.name])


@dataclass(frozen=True)
class Saved:
    """{node: ...} of a world at rest."""

    inventory: str
    containers: dict[str, dict[str, Container]]
    files: dict[str, Tree]
    locks: dict[str, str]
    unreachable: dict[str, str]
