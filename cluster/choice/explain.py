"""Why each interface and each HCA was chosen or not, as tables and as JSON: `verify --explain`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.choice.choice import Choice, InterfaceReason, Port, PortReason
from cluster.plan import Plan
from cluster.steps import Row, Table

USED, NOT_USED = "used", "not used"


def explanation(plan: Plan, choices: Mapping[str, Choice]) -> tuple[Table, ...]:
    """The interfaces of all nodes, the ports of their HCAs, and the variables that follow, if any."""
    nodes = [(member.name, choices[member.name]) for member in plan.members if member.name in choices]
    variables = tuple((name, *pair) for name, choice in nodes for pair in choice.env.items())
    return (
        (
            ("node", "interface", "addresses", "", "why"),
            tuple(row for name, choice in nodes for row in _interface_rows(name, choice)),
        ),
        (
            ("node", "HCA", "state", "link layer", "Gb/s", "near", "rail", "", "why"),
            tuple(row for name, choice in nodes for row in _port_rows(name, choice)),
        ),
        *(((("node", "variable", "value"), variables),) if variables else ()),
    )


def explanation_json(plan: Plan, choices: Mapping[str, Choice]) -> dict[str, Any]:
    """{"nodes": [{"node", "interface", "interfaces": [...], "hcas": [...], "why", "env", "warning"}]}."""
    return {
        "nodes": [
            {
                "node": member.name,
                "interface": choices[member.name].interface,
                "interfaces": [_interface_json(r) for r in choices[member.name].reasons.interfaces],
                "hcas": [_port_json(reason) for reason in choices[member.name].reasons.ports],
                "why": choices[member.name].reasons.hcas,
                "env": dict(choices[member.name].env),
                "warning": choices[member.name].warning or None,
            }
            for member in plan.members
            if member.name in choices
        ]
    }


def _interface_rows(node: str, choice: Choice) -> tuple[Row, ...]:
    return tuple(
        (node, reason.name, " ".join(reason.addresses), _word(reason.taken), reason.why)
        for reason in choice.reasons.interfaces
    ) or ((node, "", "", "", "no interface is known"),)


def _port_rows(node: str, choice: Choice) -> tuple[Row, ...]:
    """The choice as a whole first, then each port."""
    rows = tuple(
        (node, *_cells(reason.port), _word(reason.taken), reason.why) for reason in choice.reasons.ports
    )
    whole = (node, "all" if rows else "none", "", "", "", "", "", "", choice.reasons.hcas)
    return (whole, *rows)


def _cells(port: Port) -> Row:
    rail = "" if port.rail is None else str(port.rail)
    return port.name, port.state, port.link_layer, f"{port.rate:g}", " ".join(port.gpus), rail


def _word(taken: bool) -> str:
    return USED if taken else NOT_USED


def _interface_json(reason: InterfaceReason) -> dict[str, Any]:
    return {
        "name": reason.name,
        "addresses": list(reason.addresses),
        "used": reason.taken,
        "why": reason.why,
    }


def _port_json(reason: PortReason) -> dict[str, Any]:
    port = reason.port
    return {
        "name": port.name,
        "state": port.state,
        "link_layer": port.link_layer,
        "rate_gbps": port.rate,
        "gpus": list(port.gpus),
        "rail": port.rail,
        "used": reason.taken,
        "code": reason.code,
        "why": reason.why,
    }
