"""What has to hold after whatever happened and one more command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from trees import Tree, tree
from world import Saved, World
from worldnode import LABEL, WorldNode

from cluster.generations.history import history
from cluster.healing import roster
from cluster.inventory import parse
from cluster.inventory.spares import played
from cluster.plan import Member, Plan, make_plan
from cluster.render import digests, node_files

# Beside what is rendered: what was chosen from facts, passed over, and which generation it is.
BESIDE = {"network.env", "ignored", "generation"}
STATE = ".local/state/clusterctl/demo"
OURS = (".clusterctl/demo", STATE)


def is_serving(world: World, inventory: str, kept: bool = True) -> Iterator[str]:
    """What speaks against this inventory's model being served, whole, by nothing but its own.

    `kept`: what is noted of it, and what is left on nodes that have no part in it, is looked at, too.
    """
    plan = make_plan(played(parse(inventory, "inventory.yaml"), roster.newest(world.kept()).out))
    for node in world.all():
        members = [member for member in plan.members if member.name == node.name]
        if members:
            yield from _member(plan, members[0], node)
        elif kept:
            yield from _nothing(node)
        yield from _kept(node) if kept else ()
    yield from _noted(world, serves=True) if kept else ()
    head = world.node(plan.head.name)
    if head._ask().exit_code != 0:
        yield f"{plan.head.name} does not answer"


def is_down(world: World, kept: bool = True) -> Iterator[str]:
    """What speaks against nothing being left but what outlives `down`."""
    for node in world.all():
        yield from _nothing(node)
        yield from _kept(node) if kept else ()
    yield from _noted(world, serves=False) if kept else ()


def nothing_was_changed(world: World, before: Saved) -> Iterator[str]:
    """But for the lock and what is noted."""
    for node in world.all():
        if node.containers != before.containers[node.name]:
            yield f"{node.name}: containers are not as they were"
        if _run_from(tree(node.home)) != _run_from(before.files[node.name]):
            yield f"{node.name}: files are not as they were"


def foreign_is_untouched(world: World, before: Saved) -> Iterator[str]:
    """Containers of others, and files that are not this cluster's, byte for byte."""
    for node in world.all():
        if _foreign(node) != _foreign(node, before.containers[node.name]):
            yield f"{node.name}: containers of others are not as they were"
        if _not_ours(tree(node.home)) != _not_ours(before.files[node.name]):
            yield f"{node.name}: files of others are not as they were"


def _member(plan: Plan, member: Member, node: WorldNode) -> Iterator[str]:
    wanted = {"ray": digests(plan, member).ray}
    if member in plan.servers:
        wanted["serve"] = digests(plan, member).serve
    ours = [c for c in node.containers.values() if c["Config"]["Labels"].get(f"{LABEL}cluster") == "demo"]
    found = {c["Config"]["Labels"][f"{LABEL}role"]: c for c in ours}
    if len(ours) != len(wanted) or found.keys() != wanted.keys():
        yield f"{node.name}: containers {sorted(c['Name'] for c in ours)}, expected {sorted(wanted)}"
    for role, container in found.items():
        if not container["State"]["Running"]:
            yield f"{node.name}: {role} does not run"
        if container["Config"]["Labels"][f"{LABEL}digest"] != wanted.get(role):
            yield f"{node.name}: {role} is of another spec"
    rendered = {file.path: file.content for file in node_files(plan, member)}
    there = node._files()
    yield from (
        f"{node.name}: {path} is not as rendered" for path in rendered if there.get(path) != rendered[path]
    )
    yield from (f"{node.name}: {path} is left over" for path in there if path not in {*rendered, *BESIDE})


def _nothing(node: WorldNode) -> Iterator[str]:
    for container in node.containers.values():
        if container["Config"]["Labels"].get(f"{LABEL}cluster") == "demo":
            yield f"{node.name}: container {container['Name']} is left over"
    yield from (
        f"{node.name}: {path} is left over" for path in tree(node.home) if path.startswith(".clusterctl/demo")
    )


def _kept(node: WorldNode) -> Iterator[str]:
    """What outlives `down` is whole, and the lock is free."""
    if not node.lock.state.released:
        yield f"{node.name}: the lock is held by {node.lock.state.holder.command}"
    for path in node.kept_files():
        if path.endswith(".part") or (path.startswith("inflight/") and path != "inflight/"):
            yield f"{node.name}: {STATE}/{path} is left over"


def _noted(world: World, serves: bool) -> Iterator[str]:
    """The nodes' records agree, with each other and with what is so."""
    kept = world.kept()
    known = history(kept)
    if (known.served is None) if serves else (known.current is not None):
        states = {number: outcome.state for number, outcome in known.outcomes.items()}
        yield f"the records have {known.current} as current: {states}"
    for name, record in kept.items():
        wanted = f"{known.current}\n" if serves else None
        if record.get("current") != wanted:
            yield f"{name}: current is {record.get('current')!r}, expected {wanted!r}"
    begun = [number for number, outcome in known.outcomes.items() if outcome.state == "starting"]
    if begun:
        yield f"generations {begun} pass for starting"


def _foreign(node: WorldNode, containers: Mapping[str, dict] | None = None) -> dict:  # type: ignore[type-arg]
    there = node.containers if containers is None else containers
    return {id_: c for id_, c in there.items() if c["Config"]["Labels"].get(f"{LABEL}cluster") != "demo"}


def _run_from(found: Tree) -> Tree:
    return {path: file for path, file in found.items() if path.startswith(".clusterctl/demo/")}


def _not_ours(found: Tree) -> dict[str, str]:
    return {
        path: text
        for path, (text, _) in found.items()
        if not path.endswith("/") and not any(Path(path).is_relative_to(folder) for folder in OURS)
    }
