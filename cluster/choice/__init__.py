"""What each node uses: its interface, its HCAs, and why. Pure: a plan and the facts of all nodes in."""

from cluster.choice.choice import Choice, InterfaceReason, Port, PortReason, Reasons
from cluster.choice.choose import choose, lacking
from cluster.choice.environment import expected_environment, network_env
from cluster.choice.explain import explanation, explanation_json
from cluster.choice.ports import NEAR

__all__ = [
    "NEAR",
    "Choice",
    "InterfaceReason",
    "Port",
    "PortReason",
    "Reasons",
    "choose",
    "expected_environment",
    "explanation",
    "explanation_json",
    "lacking",
    "network_env",
]
