"""Nodes that could not be reached, as problems."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.errors import Problem

# Words of the reasons of ssh_open.py; what none of them fits has no answer at all.
WORDS = (
    ("permission denied", "ssh-auth-denied"),
    ("passphrase", "ssh-auth-denied"),
    ("has changed", "ssh-host-key-changed"),
    ("is unknown", "ssh-host-key-unknown"),
    ("can resolve", "ssh-dns"),
    ("does not speak SSH", "ssh-banner-timeout"),
)


def unreachable(reasons: Mapping[str, str]) -> tuple[Problem, ...]:
    """{node: reason} as problems."""
    return tuple(_problem(node, reason) for node, reason in reasons.items())


def _problem(node: str, reason: str) -> Problem:
    id_ = next((id_ for words, id_ in WORDS if words in reason), "ssh-unreachable")
    found, _, remedy = reason.partition("\n")
    look = f"Try `ssh` to {node} by hand; nodes[].address, ssh.host and ssh.port say where it is"
    return Problem(id_, node, found, "an SSH connection", remedy or look)
