"""One controller, as a process: `lockdriver.py INVENTORY HEAD GENERATION SECONDS [unfenced]`.

Takes the lock, with patience of so many seconds, and does to a stubbed engine what `up` does to a real one:
what runs anywhere is removed, then a head is started on one node and a worker on each other one, all of one
generation. Says what it does on stdout, and ends with the exit code that clusterctl would end with. Unfenced
it holds the lock and does not look at it again.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random

from cluster import fleet
from cluster.apply import Event, PhaseStarted, apply
from cluster.errors import ClusterctlError, ConnectError, LockHeldError
from cluster.holding import Held, holding
from cluster.inventory import Inventory, load
from cluster.steps import Phase, Result, Run, Wait

REMEDY = "Run it again."


def main(file: str, head: str, generation: str, seconds: str, fenced: str = "") -> int:
    inventory = load(Path(file))
    patiently = Retrying(
        retry=retry_if_exception_type(LockHeldError),
        stop=stop_after_delay(float(seconds)),
        wait=wait_random(0.05, 0.3),
        reraise=True,
    )
    try:
        patiently(bring_up, inventory, head, generation, fenced != "unfenced")
    except ClusterctlError as error:
        say(f"{type(error).__name__} {error}")
        return error.exit_code
    say("done")
    return 0


def bring_up(inventory: Inventory, head: str, generation: str, fenced: bool) -> None:
    names = [node.name for node in inventory.nodes]
    with (
        fleet.connect(inventory) as lines,
        holding("up", inventory, lines.connections, lines.unreachable, True) as held,
    ):
        if held.missing:
            raise ConnectError(held.missing, len(names))
        say(f"held {held.epoch}")
        connections, lost = (held.connections, held.lost) if fenced else (lines.connections, None)
        apply(phases(names, head, generation, held), connections, len(names), tell, REMEDY, lost)


def phases(names: list[str], head: str, generation: str, held: Held) -> tuple[Phase, ...]:
    def run(name: str, *words: str) -> Run:
        return Run(name, ("./docker", *words, generation, str(held.epoch)), timeout=20)

    workers = [name for name in names if name != head]
    return (
        Phase("Remove", tuple(run(name, "rm", "all") for name in names)),
        Phase("Start the head", (run(head, "run", "head"),)),
        Phase("Start the workers", tuple(run(name, "run", "worker") for name in workers)),
        Phase("Wait", tuple(wait(name, generation) for name in names)),
    )


def wait(name: str, generation: str) -> Wait:
    def pending(result: Result) -> str | None:
        return None if generation in result.stdout.split() else f"there is: {result.stdout}"

    return Wait(name, ("./docker", "ps"), pending, timeout=20)


def tell(event: Event) -> None:
    if isinstance(event, PhaseStarted):
        say(event.phase.title)


def say(text: str) -> None:
    print(f"{time.clock_gettime(time.CLOCK_BOOTTIME):.2f} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
