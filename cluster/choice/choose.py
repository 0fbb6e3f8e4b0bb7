"""From the facts of all nodes to what each of them uses. Pure.

HCAs are chosen with all nodes in view: NCCL connects InfiniBand to InfiniBand and RoCE to RoCE alone, and
pairs the ports of nodes one by one. What the user set is never chosen again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cluster.choice.choice import NETWORKS, Choice, Code, Port, PortReason, Reasons
from cluster.choice.environment import variables
from cluster.choice.interfaces import interface_of, interface_reasons
from cluster.choice.layers import LACKS, Nodes, Seen, common_layer, see, some, wanted_layers, why_no_layer
from cluster.choice.ports import Sifted, is_taken, sift, state_of
from cluster.choice.rails import Rails, match
from cluster.choice.user import HcaSetting, is_named
from cluster.facts import Facts
from cluster.plan import Plan


def choose(plan: Plan, facts: Mapping[str, Facts]) -> dict[str, Choice]:
    """{node name: Choice} of every node whose facts are there, in order of node rank."""
    nodes = see(plan, facts)
    unneeded = why_unneeded(plan)
    if unneeded:
        return {name: _untouched(seen, "unneeded", unneeded) for name, seen in nodes.items()}
    layer = common_layer(plan, nodes)
    if layer is None:
        why = f"nothing is chosen, NCCL does it by itself: {why_no_layer(plan, nodes)}"
        return {name: _untouched(seen, "nothing", why) for name, seen in nodes.items()}
    network = _network(nodes, layer)
    return {
        name: _chosen(seen, network) if name in network.sifted else _set(seen) for name, seen in nodes.items()
    }


def why_unneeded(plan: Plan) -> str:
    """Why HCAs play no part in a plan; empty: they do."""
    if plan.runtime.device != "cuda":
        return "without GPUs nothing goes over HCAs"
    return "" if plan.workers else "on one node nothing goes over HCAs"


def lacking(plan: Plan, facts: Mapping[str, Facts]) -> dict[str, str]:
    """{node: what it lacks} of the link layer that most nodes have; empty where they have one in common."""
    nodes = see(plan, facts)
    if why_unneeded(plan) or not nodes or common_layer(plan, nodes) is not None:
        return {}
    layers = wanted_layers(plan)
    wanted = max(layers, key=lambda layer: sum(seen.has(layer) for seen in nodes.values()))
    return {
        name: seen.setting.why if seen.setting.kind == "off" else LACKS[wanted]
        for name, seen in nodes.items()
        if not seen.has(wanted)
    }


@dataclass(frozen=True)
class _Network:
    """What is chosen with all nodes in view: those that are left to clusterctl."""

    layer: str
    sifted: Mapping[str, Sifted]
    rails: Rails


def _network(nodes: Nodes, layer: str) -> _Network:
    autos = {name: seen for name, seen in nodes.items() if seen.setting.kind == "auto"}
    sifted = {name: sift(seen.ports, layer) for name, seen in autos.items()}
    taken = {name: one.taken for name, one in sifted.items()}
    return _Network(layer, sifted, match(taken, {name: seen.ports for name, seen in autos.items()}))


def _chosen(seen: Seen, network: _Network) -> Choice:
    """The ports of the common link layer that remain after sifting, and whose rail all nodes have."""
    name, rails = seen.member.name, network.rails
    hcas = tuple(replace(port, rail=rail) for rail, port in enumerate(rails.kept[name]))
    found = {port.name: PortReason(port, "taken", _why_taken(port), True) for port in hcas}
    for reason in network.sifted[name].left:
        found[reason.port.name] = reason
    for port in network.sifted[name].taken:
        if port.name not in found:
            found[port.name] = PortReason(port, "rail", _why_no_rail(port, name, network), False)
    way = f", rails matched {rails.way}" if rails.way and len(hcas) > 1 else ""
    return _choice(
        seen,
        hcas,
        tuple(found[port.name] for port in seen.ports),
        f"{NETWORKS[network.layer]}, which all nodes have: {len(hcas)} of {len(seen.ports)} ports{way}",
        rails.warning,
    )


def _why_taken(port: Port) -> str:
    near = f", near {', '.join(port.gpus)}" if port.gpus else ""
    return f"active, {NETWORKS[port.link_layer]}, {port.rate:g} Gb/s{near}"


def _why_no_rail(port: Port, name: str, network: _Network) -> str:
    """Which nodes lack the rail, and what the port of that name is there."""
    lacking = network.rails.lacking[name, port.name]
    there = {reason.port.name: reason.why for reason in network.sifted[lacking[0]].left}
    because = f": {port.name}, {there[port.name]}" if port.name in there else ""
    return f"its rail is missing on {some(lacking)}{because}"


def _set(seen: Seen) -> Choice:
    """What NCCL makes of the user's own setting."""
    why = seen.setting.why
    if seen.setting.kind == "off":
        return _choice(seen, (), tuple(PortReason(port, "off", why, False) for port in seen.ports), why)
    hcas = {port.name: replace(port, rail=rail) for rail, port in enumerate(seen.named)}
    reasons = (_reason_of_set(hcas.get(port.name, port), seen.setting) for port in seen.ports)
    return _choice(seen, tuple(hcas.values()), tuple(reasons), why)


def _reason_of_set(port: Port, setting: HcaSetting) -> PortReason:
    if not is_named(port, setting.ib_hca):
        return PortReason(port, "set", f"NCCL_IB_HCA is {setting.ib_hca}, {setting.why}", False)
    if not port.active:
        return PortReason(port, "down", state_of(port), False)
    if not is_taken(port):
        return PortReason(port, "layer", f"its link layer is {port.link_layer or 'unknown'}", False)
    return PortReason(port, "set", setting.why, True)


def _untouched(seen: Seen, code: Code, why: str) -> Choice:
    """Nothing is chosen; what the user set still counts."""
    if seen.setting.kind != "auto":
        return _set(seen)
    return _choice(seen, (), tuple(PortReason(port, code, why, False) for port in seen.ports), why)


def _choice(
    seen: Seen, hcas: tuple[Port, ...], ports: tuple[PortReason, ...], why: str, warning: str = ""
) -> Choice:
    return Choice(
        interface=interface_of(seen.member, seen.facts),
        hcas=hcas,
        env=variables(seen, hcas),
        reasons=Reasons(interface_reasons(seen.member, seen.facts), ports, why),
        warning=warning,
    )
