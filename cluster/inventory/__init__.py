"""The YAML a user writes: its types, its rules, and how it is read."""

from cluster.inventory.load import load, parse
from cluster.inventory.model import SSH, Inventory, Model, Network, Node, Ray, Runtime, SecretSource, Serve

__all__ = [
    "SSH",
    "Inventory",
    "Model",
    "Network",
    "Node",
    "Ray",
    "Runtime",
    "SecretSource",
    "Serve",
    "load",
    "parse",
]
