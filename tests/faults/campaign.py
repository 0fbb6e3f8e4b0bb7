"""A command at one of whose effects something goes wrong; then one more command, with everything mended."""

from __future__ import annotations

import contextlib
import io
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

from world import World
from worldnode import WorldNode

from cluster import cli
from cluster.errors import ConnectionLost
from cluster.inventory import Inventory, Node
from cluster.steps import Argv, Result

Kind = Literal[
    "killed before", "killed half-way", "killed after", "cut before", "cut after", "failed", "failed after"
]
KINDS: tuple[Kind, ...] = (
    "killed before",
    "killed half-way",
    "killed after",
    "cut before",
    "cut after",
    "failed",
    "failed after",
)


class Killed(BaseException):
    """kill -9: nothing of this process happens from here on."""


@dataclass(frozen=True)
class Point:
    """The call number `number` (from 0) to a node."""

    node: str
    number: int
    what: str


@dataclass(frozen=True)
class Fault:
    kind: Kind
    at: Point

    def __str__(self) -> str:
        return f"{self.kind} {self.at.node} #{self.at.number}: {self.at.what}"


@dataclass
class Controller:
    """One process of clusterctl: what it asks of nodes goes through here, and the fault lies in its way."""

    world: World
    fault: Fault | None = None
    points: list[Point] = field(default_factory=list)
    struck: bool = False
    dead: bool = False
    cut: set[str] = field(default_factory=set)
    _calls: Counter[str] = field(default_factory=Counter)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def opener(self, _: Inventory, stack: ExitStack) -> Callable[[Node], Line]:  # noqa: ARG002
        def open_line(node: Node) -> Line:
            self._alive(node.name)
            self.world.open_line(node)
            return Line(self, self.world.node(node.name))

        return open_line

    def carry(
        self, node: str, what: str, effect: Callable[[], Any], half: Callable[[], bool], is_put: bool = False
    ) -> Any:
        """One call after the other: which effects lie before a fault is then no matter of chance."""
        with self._lock:
            self._alive(node)
            if what.startswith("renew"):
                return effect()  # the lock's own thread, at times of its own
            point = Point(node, self._calls[node], what)
            self._calls[node] += 1
            self.points.append(point)
            if self.fault is None or (self.fault.at.node, self.fault.at.number) != (node, point.number):
                return effect()
            self.struck = True
            return self._strike(self.fault.kind, effect, half, is_put)

    def _alive(self, node: str) -> None:
        if self.dead:
            raise Killed
        if node in self.cut:
            raise ConnectionLost("the connection broke")

    def _strike(self, kind: Kind, effect: Callable[[], Any], half: Callable[[], bool], is_put: bool) -> Any:
        if kind == "killed half-way":
            self.struck = half()
        if kind.endswith("after"):
            effect()
        if kind.startswith("killed"):
            self.dead = True
            raise Killed
        if kind.startswith("cut"):
            self.cut.add(self.fault.at.node if self.fault else "")
            raise ConnectionLost("the connection broke")
        if is_put:
            raise ConnectionLost("cannot write: No space left on device")
        return Result(1, "", "an injected failure\n")


@dataclass
class Line:
    """A Connection to a node of the world."""

    controller: Controller
    node: WorldNode

    def run(
        self,
        argv: Argv,
        stdin: str | Iterable[str] = "",
        timeout: float | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> Result:
        if not isinstance(stdin, str):
            self.controller.carry(self.node.name, "measure the network", lambda: None, lambda: False, True)
            return self.node.run(argv, stdin, timeout, on_line)
        answer = self.controller.carry(
            self.node.name,
            _in_short(argv),
            lambda: self.node.run(argv, stdin, timeout, on_line),
            lambda: self.node.run_half(argv, stdin),
        )
        assert isinstance(answer, Result)
        return answer

    def put(self, path: str, content: str, mode: int) -> None:
        self.controller.carry(
            self.node.name,
            f"write {path}",
            lambda: self.node.put(path, content, mode),
            lambda: self.node.put_half(path, content),
            True,
        )

    def close(self) -> None:
        """A line in memory has nothing to close."""


def _in_short(argv: Argv) -> str:
    """What a person would call it."""
    if argv == ("sh", "-s"):
        return "read facts"
    if argv[:2] == ("sh", "-c"):
        lock = "acquire" if "acquire" in argv else "read the lock"
        return lock if argv[3:4] == ("lock",) else " ".join(argv[2].split())[:100]
    if "/fence-" not in argv[1]:
        return " ".join(argv)[:100]
    verb, *rest = argv[2], *argv[5:]
    return (
        _in_short(tuple(rest))
        if verb == "guard"
        else " ".join((verb, *rest[:1]) if verb == "put" else (verb,))
    )


@dataclass(frozen=True)
class Ended:
    """`code` None: killed."""

    code: int | None
    said: str
    controller: Controller


def clusterctl(world: World, *argv: str, fault: Fault | None = None, same_machine: bool = True) -> Ended:
    """The command line in this process, as one that began when the one before had ended."""
    import cluster.fleet

    controller = Controller(world, fault)
    world.forget_holder(same_machine)
    said = io.StringIO()
    before = cluster.fleet.opener
    cluster.fleet.opener = controller.opener  # type: ignore[assignment]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code: int | None = cli.main([argv[0], str(world.file), *argv[1:]])
    except Killed:
        code = None
    finally:
        controller.dead = True  # of a killed process no thread lives on, and of one that ended none may
        cluster.fleet.opener = before
    return Ended(code, said.getvalue(), controller)
