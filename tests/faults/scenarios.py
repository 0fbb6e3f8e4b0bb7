"""What is broken: a command, from where it begins; and the one more command, with what it has to lead to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from campaign import KINDS, Ended, Fault, clusterctl
from invariants import foreign_is_untouched, is_down, is_serving, nothing_was_changed
from samples import GOOD
from world import Saved, World
from worldnode import BROKEN

# A wait that is in vain ends soon.
OLD = GOOD.replace("args:", "ready_timeout: 5, args:") + "ray: {join_timeout: 5}\n"
NEW_FLAG = OLD.replace("4096", "8192")
NEW_IMAGE = OLD.replace("v0.33.0", "v0.34.0")
BROKEN_FLAG = OLD.replace("4096", f"4096, {BROKEN.strip('-').replace('-', '_')}: 1")
WITH_SPARE = OLD.replace("nodes:\n", "nodes:\n  - {name: gpu-03, address: 10.0.0.13, gpus: 2, spare: true}\n")
PUT_BACK = "was put back and answers"


@dataclass(frozen=True)
class Then:
    """One more command, on this inventory; then the model of `serves` is served, or nothing is left (None).

    `notes`: whatever it finds, it takes the lock and writes down what is so. `heal` only looks where nothing
    is wrong: the lease of who was killed is then left to expire.
    """

    command: tuple[str, ...]
    inventory: str = OLD
    serves: str | None = OLD
    notes: bool = True

    def __str__(self) -> str:
        return self.command[0]


@dataclass(frozen=True)
class Scenario:
    """`command` on `inventory`, in the world that `begins` makes; undisturbed it ends with `code`.

    `leads_to` is the inventory that is served after it, and `before` the one that was served before.
    """

    name: str
    command: tuple[str, ...]
    begins: Callable[[World], None]
    inventory: str
    then: tuple[Then, ...]
    code: int = 0
    leads_to: str | None = OLD
    before: str = OLD


def fresh(_: World) -> None:
    """Nothing was ever done."""


def served(world: World) -> None:
    _done(world, OLD, "up")


def served_twice(world: World) -> None:
    served(world)
    _done(world, NEW_FLAG, "up")


def _done(world: World, inventory: str, *command: str) -> None:
    world.file.write_text(inventory)
    ended = clusterctl(world, *command)
    assert ended.code == 0, ended.said


def dead(world: World) -> None:
    """A worker's container was killed, and with it the server went."""
    served(world)
    ray = world.node("gpu-02").running("ray")
    assert ray
    ray["State"] |= {"Running": False, "ExitCode": 137, "OOMKilled": True}
    world.settle()


def gone(world: World) -> None:
    """The worker's node is gone, with all that runs on it; a spare stands by."""
    world.write(WITH_SPARE)
    _done(world, WITH_SPARE, "up")
    world.node("gpu-02").unreachable = "no route to host"
    server = world.node("gpu-01").running("serve")
    assert server
    server["State"] |= {"Running": False, "ExitCode": 1}


DOWN, UP, ROLLBACK = ("down", "--yes"), ("up",), ("rollback", "--yes")
RESTART, HEAL = ("restart", "--yes"), ("heal",)
FLAG_AGAIN, IMAGE_AGAIN = Then(UP, NEW_FLAG, NEW_FLAG), Then(UP, NEW_IMAGE, NEW_IMAGE)
TO_THE_FIRST = Then((*ROLLBACK, "1"), NEW_FLAG)
CLEAN, AGAIN = Then(DOWN, serves=None), Then(UP)
SCENARIOS = (
    Scenario("up", UP, fresh, OLD, (AGAIN, CLEAN)),
    Scenario("down", DOWN, served, OLD, (AGAIN, CLEAN), leads_to=None),
    Scenario("changed up: a flag", UP, served, NEW_FLAG, (FLAG_AGAIN, AGAIN, CLEAN), leads_to=NEW_FLAG),
    Scenario("changed up: an image", UP, served, NEW_IMAGE, (IMAGE_AGAIN, AGAIN, CLEAN), leads_to=NEW_IMAGE),
    Scenario("changed up: a broken flag", UP, served, BROKEN_FLAG, (AGAIN, CLEAN), code=7),
    Scenario(
        "rollback", ROLLBACK, served_twice, NEW_FLAG, (TO_THE_FIRST, FLAG_AGAIN, CLEAN), before=NEW_FLAG
    ),
    Scenario("restart", RESTART, served, OLD, (AGAIN, CLEAN)),
    Scenario("restart with Ray", (*RESTART, "--ray"), served, OLD, (AGAIN, CLEAN)),
    Scenario("heal", HEAL, dead, OLD, (Then(HEAL, notes=False), AGAIN, CLEAN)),
    Scenario(
        "heal with a spare",
        HEAL,
        gone,
        WITH_SPARE,
        (
            Then(HEAL, WITH_SPARE, WITH_SPARE, notes=False),
            Then(UP, WITH_SPARE, WITH_SPARE),
            Then(DOWN, WITH_SPARE, None),
        ),
        leads_to=WITH_SPARE,
    ),
)


def new_world(folder: Path) -> World:
    """Two nodes on which others have containers and files too."""
    world = World(folder / "inventory.yaml", home=folder)
    world.write(OLD)
    for node in world.all():
        node.add("clusterctl-other-ray", {"cluster": "other", "role": "ray", "node": node.name})
        node.add("postgres", {})["Config"]["Labels"] = {"team": "billing"}
        node.add("half-made", {}, running=False)
        node.put(f".clusterctl/other/{node.name}/run_cluster.sh", "another cluster's\n", 0o755)
        node.put(f".local/state/clusterctl/other/{node.name}/lock", "epoch=7\n", 0o600)
        node.put("thesis.tex", "somebody's own\n", 0o644)
    return world


def beginning_of(scenario: Scenario, world: World) -> Saved:
    scenario.begins(world)
    world.file.write_text(scenario.inventory)
    return world.save()


def faults_of(scenario: Scenario, world: World, beginning: Saved) -> tuple[Fault, ...]:
    """Every boundary of the command, with everything that can go wrong there."""
    world.restore(beginning)
    undisturbed = clusterctl(world, *scenario.command)
    assert undisturbed.code == scenario.code, undisturbed.said
    return tuple(Fault(kind, point) for point in undisturbed.controller.points for kind in KINDS)


def complaints(
    scenario: Scenario, world: World, beginning: Saved, fault: Fault, then: Then
) -> tuple[str, ...] | None:
    """What does not hold after the fault, and after one more command; None where nothing was struck."""
    world.restore(beginning)
    first = clusterctl(world, *scenario.command, fault=fault)
    if not first.controller.struck:
        return None
    lies = tuple(_lies(scenario, world, beginning, first))
    world.mend()
    world.file.write_text(then.inventory)
    second = clusterctl(world, *then.command, same_machine=fault.at.number % 2 == 0)
    return (*lies, *_wrong(world, beginning, then, second))


def _lies(scenario: Scenario, world: World, beginning: Saved, ended: Ended) -> Iterator[str]:
    """What the broken command said of itself and is not so."""
    if ended.code is None:
        return
    truth: Iterator[str] = iter(())
    if ended.code == 0 or (ended.code == 7 and PUT_BACK in ended.said):
        serves = scenario.leads_to if ended.code == 0 else scenario.before
        truth = is_serving(world, serves, kept=False) if serves else is_down(world, kept=False)
    elif ended.code in (4, 5, 6):
        truth = nothing_was_changed(world, beginning)
    elif ended.code != 7:
        yield f"it ended with {ended.code}: {ended.said[-900:]}"
    yield from (f"it ended with {ended.code}, but {what}" for what in truth)


def _wrong(world: World, beginning: Saved, then: Then, ended: Ended) -> Iterator[str]:
    if ended.code != 0:
        yield f"`{' '.join(then.command)}` ended with {ended.code}: {ended.said[-900:]}"
    yield from foreign_is_untouched(world, beginning)
    yield from is_down(world) if then.serves is None else is_serving(world, then.serves, then.notes)
