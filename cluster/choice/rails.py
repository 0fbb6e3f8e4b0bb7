"""Rails: which port of one node belongs to which of another, where nodes have several. Pure.

NCCL connects the ports of two nodes pairwise, in the order of the devices. A rail that one node lacks makes
the pairs of all later rails cross, and on fabrics whose rails are apart they do not reach each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from cluster.choice.choice import ETHERNET, Port

Ports = tuple[Port, ...]
ByNode = Mapping[str, Ports]


@dataclass(frozen=True)
class Rails:
    """`kept` are the ports of each node in the order of the rails; `lacking` names, for each port that was
    left out, the nodes that lack its rail. `way` says what the rails were matched by."""

    kept: ByNode
    lacking: Mapping[tuple[str, str], tuple[str, ...]]
    way: str = ""
    warning: str = ""


def match(taken: ByNode, present: ByNode) -> Rails:
    """Match the ports that nodes would use seen alone; `present` are all ports that they have."""
    if len(taken) < 2 or not all(taken.values()):
        return Rails(taken, {})
    networks = _by_network(taken)
    if networks is not None:
        return networks
    if _names_mean_the_same(taken, present):
        return _common(taken, lambda port: port.name, "by name")
    counts = {name: len(ports) for name, ports in taken.items()}
    if len(set(counts.values())) == 1:
        return Rails(taken, {}, "by position")
    numbers = ", ".join(f"{name} has {count}" for name, count in counts.items())
    return Rails(taken, {}, "", f"rails cannot be matched: names differ between nodes, and {numbers}")


def _by_network(taken: ByNode) -> Rails | None:
    """Where each RoCE port of a node is in an IPv4 network of its own, and nodes have networks in common."""
    ports = [port for one in taken.values() for port in one]
    if any(port.link_layer != ETHERNET or len(port.networks) != 1 for port in ports):
        return None
    per_node = [[port.networks[0] for port in one] for one in taken.values()]
    if any(len(set(networks)) < len(networks) for networks in per_node):
        return None
    if not set(per_node[0]).intersection(*per_node):
        return None
    rails = _common(taken, lambda port: port.networks[0], "by IPv4 network")
    return replace(rails, warning=_crossed(taken, rails))


def _crossed(taken: ByNode, rails: Rails) -> str:
    """NCCL_IB_HCA only filters: the devices keep the order that the node's verbs list has (NCCL
    src/transport/net_ib, init), which goes by their names, and NCCL pairs those of one position."""
    crossed = [
        name for name, kept in rails.kept.items() if [port for port in taken[name] if port in kept] != [*kept]
    ]
    if not crossed:
        return ""
    return (
        f"rails are not in the order of devices on {', '.join(crossed)}, as they are on {next(iter(taken))}, "
        "and NCCL pairs HCAs by that order"
    )


def _common(taken: ByNode, key: Callable[[Port], str], way: str) -> Rails:
    """The rails that all nodes have, in the first node's order."""
    keys = {name: [key(port) for port in ports] for name, ports in taken.items()}
    first, *others = keys.values()
    order = [one for one in first if all(one in other for other in others)]
    kept = {
        name: tuple(sorted((p for p in ports if key(p) in order), key=lambda p: order.index(key(p))))
        for name, ports in taken.items()
    }
    lacking = {
        (name, port.name): tuple(other for other in keys if key(port) not in keys[other])
        for name, ports in taken.items()
        for port in ports
        if key(port) not in order
    }
    return Rails(kept, lacking, way)


def _names_mean_the_same(taken: ByNode, present: ByNode) -> bool:
    """Whether a name stands for one rail on all nodes.

    It does not where a node has names that another lacks, and the other way round; nor where as many ports
    are taken everywhere, but under names that on another node are of a port that works and is not taken.
    """
    names = {name: {port.name for port in ports} for name, ports in taken.items()}
    used = set().union(*names.values())
    if not set.intersection(*names.values()):
        return False
    have = sorted(({p.name for p in ports} & used for ports in present.values()), key=len)
    if not all(smaller <= larger for smaller, larger in pairwise(have)):
        return False
    same_count = len({len(one) for one in names.values()}) == 1
    return not (same_count and _otherwise_used(names, present, used))


def _otherwise_used(names: Mapping[str, Collection[str]], present: ByNode, used: Collection[str]) -> bool:
    return any(
        port.active and port.name in used and port.name not in names[node]
        for node, ports in present.items()
        for port in ports
    )
