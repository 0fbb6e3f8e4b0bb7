"""Nodes, controllers and every message between them, each delivered when the test says so.

Time is a number. The nodes are lockmodel's, and the controllers decide by the functions that holding.py
decides by. `broken` are the rules that a controller or a node forgets, for tests that show that the checks
can fail.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lockmodel import ModelNode

from cluster.lock.state import Answer, parse_answer
from cluster.lock.tenure import Clock, Tenure, grace, in_force, more_than_half, next_epoch
from cluster.steps import Result

TTL = 100  # hundredths of a second
SECONDS = TTL / 100

Ask = Callable[[ModelNode], Result]


@dataclass
class Message:
    """A question under way, or (`answer` is there) what the node said, under way back."""

    session: Session
    node: str
    kind: str
    ask: Ask
    sent: float
    answer: Result | None = None


@dataclass
class Session:
    """One command of one controller, from reading the locks to releasing them."""

    world: World
    token: str
    machine: str
    majority: bool
    reach: tuple[str, ...]
    phase: str = "showing"  # first, rest, settling, working, ended
    paused: bool = False
    dead: bool = False
    entered: bool = False  # it was allowed to start something
    lost: bool = False
    shown: dict[str, Answer] = field(default_factory=dict)
    former: dict[str, Answer] = field(default_factory=dict)
    refused: bool = False
    asked: list[str] = field(default_factory=list)
    waiting: set[str] = field(default_factory=set)
    released: set[str] = field(default_factory=set)
    until: float = 0.0
    settled: bool = False

    def __post_init__(self) -> None:
        self.tenure = Tenure(0, self.token, SECONDS, 1)
        self._send_all("show", self.reach, lambda _: lambda node: node.show())

    @property
    def acts(self) -> bool:
        return not (self.paused or self.dead)

    @property
    def ended(self) -> bool:
        return self.dead or self.phase == "ended"

    # --- what it sends --------------------------------------------------------------------------

    def _send_all(self, kind: str, nodes: tuple[str, ...] | list[str], ask: Callable[[str], Ask]) -> None:
        self.waiting = set(nodes)
        for node in nodes:
            self.world.send(self, node, kind, ask(node))

    def _acquire(self, nodes: list[str]) -> None:
        self.asked += nodes
        about = "who=a\n"

        def ask(name: str) -> Ask:
            shown = self.shown[name]
            token = shown.state.token if shown.state else ""
            over = token if self.world.is_gone(token, self.machine) else ""
            expires = self._expires(name)
            return lambda node: node.acquire(
                self.tenure.epoch, self.token, expires(node), shown.boot, str(SECONDS), over, about
            )

        self._send_all(self.phase, nodes, ask)

    def _expires(self, name: str) -> Callable[[ModelNode], int]:
        if "durations" in self.world.broken:
            return lambda node: node.clock() + TTL
        fixed = self.tenure.expires(name, self.world.seconds)
        return lambda _: fixed

    def beat(self, name: str) -> None:
        """What holding.py's thread for that node does each third of the time."""
        if not self.acts or self.phase not in ("settling", "working") or name not in self.tenure.heard:
            return
        if not self.tenure.may_renew(self.world.seconds) and "renews-alone" not in self.world.broken:
            self.lost = True
            return
        expires = self._expires(name)
        self.world.send(
            self, name, "renew", lambda node: node.renew(self.tenure.epoch, self.token, expires(node))
        )

    def work(self, name: str) -> None:
        """Starts something on a node, if it may."""
        if self.acts and self.phase == "settling" and self.world.now >= self.until:
            self.phase, self.entered = "working", self.majority
        if self.acts and self.phase == "working" and not self.lost and name in self.former:
            self.world.send(self, name, "guard", self._guarded)

    def _guarded(self, node: ModelNode) -> Result:
        begun = node.begin(self.tenure.epoch, self.token)
        return Result(0, "", "") if isinstance(begun, int) else Result(91, "", begun)

    def release(self) -> None:
        if self.acts and not self.ended and self.phase != "showing":
            self._end()

    def _end(self) -> None:
        self.phase = "ended"
        self._send_all("release", self.asked, lambda _: self._release(False))

    def _release(self, settled: bool) -> Ask:
        return lambda node: node.release(self.tenure.epoch, self.token, settled)

    # --- what it hears --------------------------------------------------------------------------

    def hear(self, message: Message, answer: Answer | None) -> None:
        """None: the line broke."""
        if answer is not None:
            self.tenure.read(message.node, Clock(answer.now, answer.boot, self.world.seconds))
        if message.kind == "renew":
            return self._renewed(message, answer)
        self.waiting.discard(message.node)
        if message.kind == "show" and answer is not None:
            self.shown[message.node] = answer
        if message.kind in ("first", "rest") and self.phase == message.kind:
            self._acquired(message, answer)
        if message.kind == "release" and answer is not None:
            self._was_released(message.node)
        if not self.waiting:
            self._go_on()
        return None

    def _acquired(self, message: Message, answer: Answer | None) -> None:
        if answer is None:
            return
        if answer.ok:
            self.former[message.node] = answer
            self.tenure.acknowledged(message.node, message.sent)
        elif answer.word in ("held", "stale"):
            self.refused = True

    def _renewed(self, message: Message, answer: Answer | None) -> None:
        if answer is None or answer.word == "late":
            return
        if answer.ok:
            self.tenure.acknowledged(message.node, message.sent)
        else:
            self.tenure.dropped(message.node)
            self.lost = self.lost or answer.word in ("superseded", "released")

    def _was_released(self, node: str) -> None:
        self.released.add(node)
        everywhere = self.released == set(self.asked) or "settled-early" in self.world.broken
        if everywhere and self.settled:
            self.settled = False
            for name in self.asked:
                self.world.send(self, name, "settled", self._release(True))

    def _go_on(self) -> None:
        if self.phase == "showing":
            self._decide()
        elif self.phase == "first" and not self.refused:
            self.phase = "rest"
            self._acquire([name for name in self.shown if name not in self.asked])
        if self.phase == "rest" and not self.waiting and not self.refused:
            self._enough()
        if self.refused and self.phase in ("first", "rest"):
            self._end()

    def _decide(self) -> None:
        gone = {
            answer.state.token
            for answer in self.shown.values()
            if answer.state and self.world.is_gone(answer.state.token, self.machine)
        }
        if not self.shown or in_force(self.shown, gone):
            self.phase = "ended"
            return
        self.tenure.epoch = next_epoch(self.shown.values())
        self.phase = "first"
        self._acquire(sorted(self.shown)[:1])

    def _enough(self) -> None:
        total = len(self.world.nodes)
        minority = "minority" in self.world.broken or not self.majority
        if len(self.former) < (1 if minority else more_than_half(total)):
            return self._end()
        self.tenure.quorum = more_than_half(len(self.former) if minority else total)
        seconds = 0.0 if "no-grace" in self.world.broken else grace(self.former, total, SECONDS)
        self.until = self.world.now + 100 * seconds * self.majority
        self.settled = self.majority or seconds == 0
        self.phase = "settling"
        return None


@dataclass
class World:
    """`now` is in hundredths of a second; a node's clock runs with it, from another start."""

    size: int
    broken: frozenset[str] = frozenset()
    now: int = 0
    sessions: list[Session] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    granted: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        self.nodes: Mapping[str, ModelNode] = {
            f"n{number}": ModelNode(self._clock(1000 * number), broken=self.broken)
            for number in range(self.size)
        }

    @property
    def seconds(self) -> float:
        """As the controllers' clocks show it."""
        return self.now / 100

    def _clock(self, start: int) -> Callable[[], int]:
        return lambda: start + self.now

    def begin(self, machine: str, majority: bool, reach: tuple[str, ...]) -> Session:
        session = Session(self, f"t{next(self._numbers)}", machine, majority, reach)
        self.sessions.append(session)
        return session

    def is_gone(self, token: str, machine: str) -> bool:
        return any(one.dead and one.token == token and one.machine == machine for one in self.sessions)

    def send(self, session: Session, node: str, kind: str, ask: Ask) -> None:
        self.messages.append(Message(session, node, kind, ask, self.seconds))

    # --- what the test does ---------------------------------------------------------------------

    def deliver(self, message: Message) -> None:
        """One way; a controller that does not run hears nothing yet."""
        if message.answer is None:
            self.messages.remove(message)
            message.answer = message.ask(self.nodes[message.node])
            self._note(message)
            self.messages.append(message)
        elif message.session.acts:
            self.messages.remove(message)
            message.session.hear(message, parse_answer(message.answer.stdout))

    def drop(self, message: Message) -> None:
        self.messages.remove(message)
        if message.session.acts:
            message.session.hear(message, None)

    def give_up(self, message: Message) -> None:
        """The controller waits no longer, and the question is still under way."""
        if message.answer is None and message.session.acts:
            message.session.hear(message, None)

    def flush(self, session: Session) -> None:
        """All of its messages, as if the network took no time."""
        while mine := [one for one in self.messages if one.session is session]:
            if not session.acts and all(one.answer is not None for one in mine):
                return
            self.deliver(next((one for one in mine if one.answer is None), mine[0]))

    def force_release(self, node: ModelNode) -> None:
        """`clusterctl lock release`, by a person."""
        state = node.state
        node.release(state.epoch, state.token, False)

    def _note(self, message: Message) -> None:
        answer = parse_answer(message.answer.stdout) if message.answer else None
        if message.kind in ("first", "rest") and answer is not None and answer.ok:
            self.granted.setdefault(message.node, []).append(message.session.tenure.epoch)

    # --- what has to be true --------------------------------------------------------------------

    def check(self) -> None:
        for name, node in self.nodes.items():
            epochs = self.granted.get(name, [])
            assert all(a < b for a, b in itertools.pairwise(epochs)), f"{name} granted {epochs}"
            older = {epoch for epoch in node.running.values() if epoch != node.state.epoch}
            assert not older, f"{name} has epoch {node.state.epoch}, and {older} still run"
        able = [one.token for one in self.sessions if one.entered and self._live_anywhere(one)]
        assert len(able) <= 1, f"{able} may both start something"

    def _live_anywhere(self, session: Session) -> bool:
        states = ((node.state, node) for node in self.nodes.values())
        return any(
            state.token == session.token and state.live(node.clock(), node.boot) for state, node in states
        )
