"""Which nodes carry the cluster: a spare stands by, and takes the place of a node that fell out. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.errors import ClusterctlError, count
from cluster.inventory.model import Inventory, Node


class NoSpareError(ClusterctlError):
    """A node is not to be used, and no spare can take its place; nothing was changed."""

    exit_code = 5

    def __init__(
        self, node: Node, spares: Iterable[Node], out: Iterable[str], still_used: bool = False
    ) -> None:
        gone, listed_spares = frozenset(out), tuple(spares)
        self.node, self._about = node.name, (node, listed_spares, gone)
        back = f", or mend {node.name} and run `clusterctl quarantine INVENTORY --release {node.name}`"
        listed = "; ".join(_why_not(spare, node, gone) for spare in listed_spares)
        super().__init__(
            f"{node.name} {'cannot be left out: ' if still_used else 'is not used any more, and '}"
            f"no spare can take its place: {listed or 'the inventory has none'}\n"
            f"  Add a node with `spare: true` and {count(node.gpus, 'GPU')}{'' if still_used else back}."
        )

    def beforehand(self) -> NoSpareError:
        """The same of a node that is still used, and was to be left out."""
        return NoSpareError(*self._about, still_used=True)


def members(inventory: Inventory) -> tuple[Node, ...]:
    """The nodes that carry the cluster."""
    return tuple(node for node in inventory.nodes if not node.spare)


def spares(inventory: Inventory) -> tuple[Node, ...]:
    """The nodes that stand by, in the order in which they are taken."""
    return tuple(node for node in inventory.nodes if node.spare)


def played(inventory: Inventory, out: Iterable[str] = (), looking: bool = False) -> Inventory:
    """The inventory as it is played: its members alone, each that fell out replaced by a spare.

    `out` are the names of who fell out, in that order, and a name again where that node came back. It comes
    back as a spare: who took a place keeps it, also when a further node falls out, so that none is restarted
    for another's sake. The spare gets the place, and with it the node rank, the number of GPUs and, if it was
    the head's, the head's part. Names that the inventory does not have are passed over.

    Raises NoSpareError where no spare has as many GPUs; for who is only `looking`, the node keeps its place.
    """
    places, gone = list(members(inventory)), set[str]()
    head = next(place for place, node in enumerate(places) if node.name == (inventory.head or places[0].name))
    for name in out:
        gone ^= {name}
        _fill(inventory, places, gone)
    _fill(inventory, places, gone, strict=not looking)
    return inventory.model_copy(update={"nodes": tuple(places), "head": places[head].name})


def replacement(inventory: Inventory, out: Iterable[str], name: str) -> str:
    """Who would take the place of a node that plays, if it fell out now. Raises NoSpareError."""
    before = [node.name for node in played(inventory, out).nodes]
    try:
        after = [node.name for node in played(inventory, (*out, name)).nodes]
    except NoSpareError as error:
        raise error.beforehand() from None
    return after[before.index(name)]


def everyone(inventory: Inventory) -> Inventory:
    """All nodes as members: for what is done on each of them, and asks nobody's rank."""
    nodes = tuple(node.model_copy(update={"spare": False}) for node in inventory.nodes)
    return inventory.model_copy(update={"nodes": nodes})


def _fill(inventory: Inventory, places: list[Node], gone: set[str], strict: bool = False) -> None:
    """Replace those that are gone, as far as there are spares."""
    for place, node in enumerate(places):
        if node.name not in gone:
            continue
        taken = gone | {other.name for other in places}
        free = (spare for spare in inventory.nodes if spare.name not in taken and spare.gpus >= node.gpus)
        spare = next(free, None)
        if spare is not None:
            places[place] = spare.model_copy(update={"spare": False, "gpus": node.gpus})
        elif strict:
            raise NoSpareError(node, spares(inventory), taken)


def _why_not(spare: Node, node: Node, taken: frozenset[str]) -> str:
    if spare.name in taken:
        return f"{spare.name} is in use or in quarantine itself"
    return f"{spare.name} has {count(spare.gpus, 'GPU')}, {node.name} {node.gpus}"
