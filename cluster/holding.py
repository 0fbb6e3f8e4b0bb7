"""Take the lock on the nodes, keep it, give it back. cluster/lock/PROTOCOL.md is what it does and why."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from cluster.connection import Connection
from cluster.errors import ConnectError, ConnectionLost, LockHeldError
from cluster.fenced import FencedConnection, Lost
from cluster.holder import is_gone, this_holder
from cluster.inventory import Inventory
from cluster.lock.messages import WHY_NOT, held
from cluster.lock.state import Answer
from cluster.lock.tenure import Clock, Tenure, grace, in_force, more_than_half, next_epoch
from cluster.locks import ask, fences, shown
from cluster.parallel import on_all

# Counts while the machine sleeps; on macOS CLOCK_MONOTONIC does.
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
ANSWER_TIMEOUT = 30.0  # seconds; an acquire may have to wait for what it kills
RELEASE_TIMEOUT = 5.0
BEATS = 3  # renewals within the time after which a lease expires


@dataclass(frozen=True)
class Held:
    """The lock, taken: `connections` are guarded lines to the nodes on which it was.

    `missing` is {node: why} of those that stand in the inventory and on which it was not.
    """

    epoch: int
    connections: Mapping[str, Connection]
    missing: Mapping[str, str]
    lost: Lost

    @property
    def why(self) -> str:
        """Why it is lost; "" while it is not."""
        return self.lost.why


@contextmanager
def holding(
    command: str,
    inventory: Inventory,
    connections: Mapping[str, Connection],
    unreachable: Collection[str],
    majority: bool,
) -> Iterator[Held]:
    """The lock on all nodes that answer, from here to the end of the `with`.

    Raises LockHeldError where another is at work, ConnectError where more than half of the inventory's nodes
    are needed and do not answer; nothing was changed then. After that, whoever goes on without looking at
    Held.lost gets LockLostError from the next command.
    """
    claim = _Claim(command, inventory, connections, unreachable)
    try:
        claim.take(majority)
        claim.keep()
        claim.settle(majority)
        yield claim.held
    finally:
        claim.give_back()


def now() -> float:
    """Seconds of this machine's clock, sleep included."""
    return time.clock_gettime(CLOCK)


@dataclass
class _Claim:
    """One command's way through the lock."""

    command: str
    inventory: Inventory
    connections: Mapping[str, Connection]
    unreachable: Collection[str]
    former: dict[str, Answer] = field(default_factory=dict)  # what each acquired node had said before
    missing: dict[str, str] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.lost, self._over = Lost(self.command), threading.Event()
        self._holder, self._knowing = this_holder(self.command), threading.Lock()
        self._asked: list[str] = []
        self._settled = False
        self.total = len(self.inventory.nodes)
        self._fences = fences(self.inventory, self.connections)
        reasons = self.unreachable if isinstance(self.unreachable, Mapping) else {}
        for name in self.unreachable:
            self.missing[name] = reasons.get(name, "it could not be reached")

    @property
    def held(self) -> Held:
        lines = {
            name: FencedConnection(
                name, line, self._fences[name], self.tenure.epoch, self.tenure.token, self.lost
            )
            for name, line in self.connections.items()
            if name in self.former
        }
        return Held(self.tenure.epoch, lines, self.missing, self.lost)

    # --- taking ---------------------------------------------------------------------------------

    def take(self, majority: bool) -> None:
        """The first node alone: of two who come at once, one is refused there and has taken nothing."""
        self.tenure = Tenure(0, secrets.token_hex(8), self.inventory.lock.expires_after, 1)
        found = self._show()
        self.gone = frozenset(
            state.token for answer in found.values() if (state := answer.state) and is_gone(state.holder)
        )
        self._refuse_where(in_force(found, self.gone), found)
        self.tenure.epoch = next_epoch(found.values())
        names = [node.name for node in self.inventory.nodes if node.name in found]
        for part in (names[:1], names[1:]):
            self._acquire({name: found[name] for name in part})
        self._enough(majority)

    def _show(self) -> dict[str, Answer]:
        answers, silent = shown(self.inventory, self.connections, self._read_clock)
        self.missing |= silent
        return answers

    def _heard(self, name: str, answer: Answer | ConnectionLost) -> Answer | None:
        """The answer; a node that gave none is missing."""
        if isinstance(answer, ConnectionLost):
            self.missing[name] = str(answer)
            return None
        return answer

    def _acquire(self, nodes: Mapping[str, Answer]) -> None:
        answers = on_all({name: (name, shown) for name, shown in nodes.items()}, self._acquire_one)
        refused: dict[str, Answer] = {}
        for name in nodes:
            answer = self._heard(name, answers[name])
            if answer is None:
                continue
            if answer.ok:
                self.former[name] = answer
            elif answer.word in ("held", "stale"):
                refused[name] = answer
            else:
                self.missing[name] = f"it does not take the lock: {answer.word}"
        self._refuse_where(refused, refused)

    def _acquire_one(self, asked: tuple[str, Answer]) -> Answer:
        name, shown = asked
        over = shown.state.token if shown.state and shown.state.token in self.gone else ""
        sent = now()
        words = self._fences[name].acquire(
            self.tenure.epoch,
            self.tenure.token,
            self.tenure.expires(name, sent),
            shown.boot,
            self.tenure.ttl,
            over,
            self._holder.about,
        )
        self._asked.append(name)
        answer = self._ask(name, words, ANSWER_TIMEOUT, self._fences[name].script)
        if answer.ok:
            with self._knowing:
                self.tenure.acknowledged(name, sent)
        return answer

    def _refuse_where(self, nodes: Collection[str], answers: Mapping[str, Answer]) -> None:
        """A live lease of another's is the reason; else another was a moment ahead."""
        live = {name: answers[name] for name in nodes if answers[name].live}
        if live:
            raise LockHeldError(held(live, self.total))
        if nodes:
            words = ", ".join(f"{name} ({answers[name].word})" for name in nodes)
            raise LockHeldError(
                f"another command took the lock at the same moment: {words}; nothing was changed\n"
                "  `clusterctl lock status` says who; run this again"
            )

    def _enough(self, majority: bool) -> None:
        needed = more_than_half(self.total) if majority else 1
        if len(self.former) < needed and self.missing:
            raise ConnectError(self.missing, self.total)
        self.tenure.quorum = more_than_half(self.total if majority else len(self.former))

    # --- keeping --------------------------------------------------------------------------------

    def keep(self) -> None:
        """A thread a node: one that is silent keeps none of the others waiting."""
        for name in self.former:
            threading.Thread(target=self._beat, args=(name,), name=f"lock {name}", daemon=True).start()

    def settle(self, majority: bool) -> None:
        """Wait until nothing of a former holder's can be live on a node that is missing.

        Not without the majority: that command starts nothing, and the next one waits instead.
        """
        seconds = grace(self.former, self.total, self.tenure.ttl)
        if majority and self.lost.wait(seconds):
            raise self.lost.error()
        self._settled = majority or seconds == 0

    def _beat(self, name: str) -> None:
        while not self._over.wait(self.tenure.ttl / BEATS):
            sent = now()
            with self._knowing:
                may, expires = self.tenure.may_renew(sent), self.tenure.expires(name, sent)
            if not may:
                return self.lost.because(f"for {self.tenure.ttl:g} s too few nodes could be reached")
            words = self._fences[name].renew(self.tenure.epoch, self.tenure.token, expires)
            try:
                answer = self._ask(name, words, self.tenure.ttl)
            except ConnectionLost:
                continue
            if not self._renewed(name, answer, sent):
                return None
        return None

    def _renewed(self, name: str, answer: Answer, sent: float) -> bool:
        """Whether there is anything left to renew on that node."""
        if answer.word == "late":
            return True
        with self._knowing:
            if answer.ok:
                self.tenure.acknowledged(name, sent)
            else:
                self.tenure.dropped(name)
        if answer.word in ("superseded", "released"):
            self.lost.because(f"{name}: {WHY_NOT[answer.word]}")
        return answer.ok

    # --- giving back ----------------------------------------------------------------------------

    def give_back(self) -> None:
        """On every node that was asked for it; one that does not answer lets it expire.

        That it ended in order is written only where all have answered: a command that is still under way to
        one that has not could begin there.
        """
        self._over.set()
        released = self._release(settled=False)
        if self._settled and set(released) == set(self._asked):
            self._release(settled=True)

    def _release(self, settled: bool) -> list[str]:
        """The nodes that answered soon."""
        released: list[str] = []

        def release(name: str) -> None:
            words = self._fences[name].release(self.tenure.epoch, self.tenure.token, settled)
            with contextlib.suppress(ConnectionLost):
                self._ask(name, words, RELEASE_TIMEOUT)
                released.append(name)

        threads = [threading.Thread(target=release, args=(name,), daemon=True) for name in self._asked]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + RELEASE_TIMEOUT
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return list(released)

    def _ask(self, name: str, words: tuple[str, ...], timeout: float, stdin: str = "") -> Answer:
        answer = ask(self.connections[name], words, timeout, stdin)
        self._read_clock(name, answer)
        return answer

    def _read_clock(self, name: str, answer: Answer) -> None:
        with self._knowing:
            self.tenure.read(name, Clock(answer.now, answer.boot, now()))
