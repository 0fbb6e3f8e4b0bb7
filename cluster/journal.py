"""Generations written down as they happen: on every node that answers, through the lock of an operation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from cluster import __version__, evidence
from cluster.apply import silently
from cluster.errors import ClusterctlError, ConnectionLost, Interrupted, LockLostError
from cluster.facts import what_may_drift
from cluster.fleet import Fleet
from cluster.gather import gather_tolerantly
from cluster.generations import keep
from cluster.generations.drift import baseline
from cluster.generations.history import History, generations, history
from cluster.generations.record import Generation, State
from cluster.generations.spec import digest_of, inventory_text
from cluster.holder import moment, operator
from cluster.inventory import Inventory, parse
from cluster.inventory.secrets import Secrets, read_secrets
from cluster.inventory.spares import played
from cluster.operation import Operation, read_records
from cluster.plan import Plan, make_plan
from cluster.steps import Phase, Put, Run

REMEDY = "Nothing else was changed by this. Mend it, and run the command again."


@dataclass(frozen=True)
class Target:
    """What is to serve: an inventory as it was written, who is not to be used, and what follows from them."""

    inventory: Inventory
    quarantined: tuple[str, ...]
    secrets: Secrets

    @cached_property
    def played(self) -> Inventory:
        """Its members alone, spares in the places of quarantined ones."""
        return played(self.inventory, self.quarantined)

    @property
    def other_addresses(self) -> frozenset[str]:
        """Of the inventory's nodes that have no part in it: spares, and those that were replaced."""
        members = {node.address for node in self.played.nodes}
        return frozenset(node.address for node in self.inventory.nodes) - members

    @cached_property
    def plan(self) -> Plan:
        return make_plan(self.played)

    @cached_property
    def digest(self) -> str:
        return digest_of(self.plan, self.played)


def target_of(generation: Generation) -> Target:
    """What a generation served. Raises InventoryError where its secrets are not on this machine."""
    name = f"generation {generation.number}"
    inventory = parse(generation.inventory, name)
    return Target(inventory, generation.quarantined, read_secrets(inventory, name))


def recorded(inventory: Inventory, lines: Fleet, numbers: Iterable[int] = ()) -> dict[int, Generation]:
    """The records of these generations, or of all; those that no node can show are missing."""
    patterns = tuple(f"generations/{number}/record.json" for number in numbers)
    return generations(read_records(inventory, lines, patterns or ("generations/*/record.json",)))


class Journal:
    """The history of a cluster within one operation; what it writes it knows from then on.

    Every method that writes raises PhaseError where a node does not take it.
    """

    def __init__(self, op: Operation, cluster: str) -> None:
        self._op, self.cluster = op, cluster
        self._records = {node: dict(op.records.get(node, {})) for node in op.connections}

    @property
    def history(self) -> History:
        return history(self._records)

    def is_settled(self, number: int) -> bool:
        """Whether every node has the last word: that this generation serves, and no other was begun since."""
        known = self.history
        states = {o.state for n, o in known.outcomes.items() if n != number}
        heard = [known.by_node.get(node, {}).get(number) for node in self._nodes]
        told = {self._records.get(node, {}).get("current", "").strip() for node in self._nodes}
        last = known.outcomes.get(number)
        if any(keep.half_written(path) for record in self._records.values() for path in record):
            return False
        agreed = last is not None and all(o is not None and o.serial == last.serial for o in heard)
        return (
            agreed
            and known.served == number
            and told == {str(number)}
            and not states & {"starting", "serving"}
        )

    def begin(self, target: Target, number: int) -> None:
        """Note that a target is being brought up, and what it is where nothing is known of its number yet."""
        known = self.history
        unknown = [node for node in self._nodes if number not in known.by_node.get(node, {})]
        if unknown:
            text, who = inventory_text(target.inventory), (moment(), operator(), __version__)
            generation = Generation(number, target.digest, text, *who, target.quarantined)
            self._write(keep.begin(self.cluster, unknown, generation, target.plan, known))
        if number in known.outcomes:
            self.note(number, "starting")

    def note(self, number: int, state: State, reason: str = "") -> None:
        """Note what became of a generation."""
        self._note(keep.Note(number, state, moment(), reason))

    def serves(self, number: int, plan: Plan) -> None:
        """Note that a generation serves, with what runs on its nodes by now."""
        facts, _ = gather_tolerantly(plan, self._op.connections, what_may_drift)
        found = {node: baseline(fact) for node, fact in facts.items()}
        self._note(keep.Note(number, "serving", moment(), baselines=found))

    def ended(self) -> None:
        """Note that nothing should run any more; what is noted already is not written again."""
        unaware = [node for node in self._nodes if "current" in self._records.get(node, {})]
        self._write(keep.ended(self.cluster, self._nodes, self.history, moment(), unaware))
        for record in self._records.values():
            record.pop("current", None)

    def keep_evidence(self, number: int, plan: Plan, nodes: Iterable[str] = ()) -> str:
        """Have all members, or these, keep what they know of a failure; why some could not, or nothing.

        Raises nothing but Interrupted and LockLostError: it comes after an error, which must not be lost.
        """
        wanted = set(nodes) or set(self._op.connections)
        when = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        try:
            self._apply("Keep the evidence", evidence.steps(plan, wanted, number, when))
        except (Interrupted, LockLostError):
            raise
        except (ClusterctlError, ConnectionLost) as error:
            return str(error)
        return ""

    @property
    def _nodes(self) -> tuple[str, ...]:
        return tuple(self._op.connections)

    def _note(self, note: keep.Note) -> None:
        self._write(keep.outcome(self.cluster, self._nodes, note, self.history))

    def _write(self, steps: Iterable[Put | Run]) -> None:
        written = tuple(steps)
        if not written:
            return
        self._apply("Keep the record", (*keep.tidy(self.cluster, self._records), *written))
        for record in self._records.values():
            for path in [path for path in record if keep.half_written(path)]:
                del record[path]
        for step in written:
            if isinstance(step, Put):
                path = step.path.partition(f"/{self.cluster}/{step.node}/")[2]
                self._records.setdefault(step.node, {})[path] = step.content

    def _apply(self, title: str, steps: tuple[Put | Run, ...]) -> None:
        if steps:
            self._op.apply((Phase(title, steps),), len(self._nodes), silently, REMEDY)


def baselines(known: History) -> dict[str, Mapping[str, object]]:
    """{node: what ran there when the current generation served}."""
    return {node: known.baseline(node) for node in known.by_node}
