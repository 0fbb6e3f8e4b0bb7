"""fence.sh in Python: what one node does with its lock, at a time that the test decides.

`broken` are rules that it forgets, for tests that show that their checks can fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cluster.lock.commands import INSTALL, REFUSED, SAYS, SHOW
from cluster.lock.state import Holder, State, parse_state
from cluster.steps import Argv, Result

NO_LEASE = State(0, "", 0, "", 0.0, True, False, Holder())


@dataclass(frozen=True)
class Guarded:
    """A command that the node carries out now."""

    argv: Argv


@dataclass(frozen=True)
class Written:
    """A file that the node writes now, from stdin."""

    path: str
    mode: int


@dataclass
class ModelNode:
    """`clock()` is hundredths of a second of uptime; `running` is {number: epoch} of what runs."""

    clock: Callable[[], int]
    boot: str = "boot-1"
    text: str = ""  # of the file `lock`
    broken: frozenset[str] = frozenset()
    running: dict[int, int] = field(default_factory=dict)
    begun: int = 0

    @property
    def state(self) -> State:
        return parse_state(self.text) or NO_LEASE

    # --- the verbs ------------------------------------------------------------------------------

    def show(self) -> Result:
        return Result(0, f"answer=ok\nnow={self.clock()}\nboot_now={self.boot}\n{self.text}", "")

    def acquire(
        self, epoch: int, token: str, expires: int, boot: str, ttl: str, over: str, about: str
    ) -> Result:
        before = self.state
        if boot != self.boot:
            return self._answer("rebooted")
        if self._why_not(before.epoch, before.token) is None and before.token != over:
            return self._answer("held")
        if epoch < before.epoch or (epoch == before.epoch and "equal-epochs" not in self.broken):
            return self._answer("stale")
        if expires <= self.clock():
            return self._answer("late")
        answer = self._answer("ok")
        if "no-kill" not in self.broken:
            self.running.clear()
        self._write(State(epoch, token, expires, boot, float(ttl), False, False, Holder()), about)
        return answer

    def renew(self, epoch: int, token: str, expires: int) -> Result:
        why = self._why_not(epoch, token)
        if why is not None:
            return self._answer(why)
        if expires <= self.clock():
            return self._answer("late")
        answer, now = self._answer("ok"), self.state
        self._write(replace(now, expires=max(now.expires, expires)))
        return answer

    def release(self, epoch: int, token: str, settled: bool) -> Result:
        now = self.state
        if (now.epoch, now.token) != (epoch, token):
            return self._answer("superseded")
        answer = self._answer("ok")
        self._write(replace(now, released=True, settled=settled))
        return answer

    def begin(self, epoch: int, token: str) -> int | str:
        """The number of a guarded command that runs from now on, or why it does not."""
        why = self._why_not(epoch, token)
        if why is not None and "no-epoch-check" not in self.broken:
            return why
        self.begun += 1
        self.running[self.begun] = epoch
        return self.begun

    def end(self, number: int) -> None:
        self.running.pop(number, None)

    def reboot(self, boot: str) -> None:
        self.boot = boot
        self.running.clear()

    def _why_not(self, epoch: int, token: str) -> str | None:
        now = self.state
        if (now.epoch, now.token) != (epoch, token):
            return "superseded"
        if now.released:
            return "released"
        if now.boot != self.boot:
            return "rebooted"
        return "expired" if self.clock() >= now.expires else None

    def _answer(self, word: str) -> Result:
        said = f"answer={word}\nnow={self.clock()}\nboot_now={self.boot}\n{self.text}"
        return Result(0 if word == "ok" else REFUSED, f"{said.rstrip()}\n", "")

    def _write(self, state: State, about: str | None = None) -> None:
        """`about` None: what it says of its holder stays."""
        kept = "".join(self.text.splitlines(keepends=True)[7:]) if about is None else about
        ttl = f"{state.ttl:g}"
        self.text = (
            f"epoch={state.epoch}\ntoken={state.token}\nexpires={state.expires}\nboot={state.boot}\nttl={ttl}\n"
            f"released={int(state.released)}\nsettled={int(state.settled)}\n{kept}"
        )

    # --- as a node hears it ---------------------------------------------------------------------

    def hear(self, argv: Argv) -> Result | Guarded | Written | None:
        """What fence.sh does with the words; None where they are not for it."""
        if argv[:3] == ("sh", "-c", SHOW):
            return self.show()
        words = argv[6:] if argv[:3] == ("sh", "-c", INSTALL) else _words_for_fence(argv)
        if not words:
            return None
        verb, epoch, token, *rest = words
        if verb == "acquire":
            expires, boot, ttl, over, about = rest
            return self.acquire(int(epoch), token, int(expires), boot, ttl, over, about)
        if verb == "renew":
            return self.renew(int(epoch), token, int(rest[0]))
        if verb == "release":
            return self.release(int(epoch), token, rest[0] == "1")
        number = self.begin(int(epoch), token)
        if isinstance(number, str):
            return Result(REFUSED, "", f"{SAYS}refused: {number}\n")
        self.end(number)
        return Written(rest[0], int(rest[1], 8)) if verb == "put" else Guarded(tuple(rest))


def _words_for_fence(argv: Argv) -> Argv:
    is_fence = argv[0] == "sh" and len(argv) > 2 and "/fence-" in argv[1]
    return argv[2:] if is_fence else ()
