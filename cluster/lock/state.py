"""What a node says of its lock: the text of its file `lock`, and its answers. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

CENTISECOND = 0.01  # the resolution of /proc/uptime, and the unit of every time on a node


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, for people, and so that its own machine can tell that it is gone.

    `machine` is the boot id and the process namespace in which `pid` means something; "" where there is none.
    `started` is that process's start in clock ticks, `since` the wall clock in ISO 8601.
    """

    who: str = ""
    machine: str = ""
    pid: str = ""
    started: str = ""
    command: str = ""
    since: str = ""

    @property
    def about(self) -> str:
        """key=value lines; a value is kept on its line."""
        fields = dataclasses.asdict(self).items()
        return "".join(f"{key}={' '.join(value.split())}\n" for key, value in fields)


@dataclass(frozen=True)
class State:
    """A lease, live or past. `expires` is in hundredths of a second of the node's uptime, `ttl` in seconds.

    `settled`: it was released by its holder on every node, which had waited until no former lease was left
    anywhere (tenure.grace).
    """

    epoch: int
    token: str
    expires: int
    boot: str
    ttl: float
    released: bool
    settled: bool
    holder: Holder

    def live(self, now: int, boot: str) -> bool:
        """Whether commands of this lease are carried out, at a node's own time."""
        return not self.released and self.boot == boot and now < self.expires

    def seconds_left(self, now: int) -> float:
        """Until it expires; 0 where it has."""
        return max(0.0, (self.expires - now) * CENTISECOND)

    def seconds_silent(self, now: int) -> float:
        """Since its holder was heard last."""
        return max(0.0, (now - self.expires) * CENTISECOND + self.ttl)


@dataclass(frozen=True)
class Answer:
    """What a node answered at `now` of its boot `boot`; `state` is the lock as it was before, if any.

    `word` is ok, or why not: held, stale, late, rebooted; expired, released, superseded.
    """

    word: str
    now: int
    boot: str
    state: State | None

    @property
    def ok(self) -> bool:
        return self.word == "ok"

    @property
    def live(self) -> State | None:
        """The lease that is live on the node."""
        return self.state if self.state and self.state.live(self.now, self.boot) else None


def parse_answer(text: str) -> Answer | None:
    """None where it is no answer: the node said something else."""
    found = _values(text)
    if not {"answer", "now", "boot_now"} <= found.keys() or not found["now"].isdigit():
        return None
    return Answer(found["answer"], int(found["now"]), found["boot_now"], parse_state(text))


def parse_state(text: str) -> State | None:
    """None where there is none, or one that no clusterctl wrote."""
    found = _values(text)
    try:
        return State(
            int(found["epoch"]),
            found["token"],
            int(found["expires"]),
            found["boot"],
            float(found["ttl"]),
            found["released"] != "0",
            found["settled"] == "1",
            Holder(**{field.name: found.get(field.name, "") for field in dataclasses.fields(Holder)}),
        )
    except (KeyError, ValueError):
        return None


def _values(text: str) -> Mapping[str, str]:
    pairs = (line.partition("=") for line in text.splitlines())
    return {key: value for key, equals, value in pairs if equals}
