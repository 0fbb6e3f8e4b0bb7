"""RoCE: the addresses that its ports need."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.choice import Choice, Port
from cluster.errors import Problem
from cluster.facts import Facts
from cluster.plan import Member, Plan


def gids(plan: Plan, member: Member, _: Facts, choice: Choice) -> Iterator[Problem]:
    """RoCE between nodes needs a RoCE v2 address with the IPv4 address of its network in it."""
    if not plan.workers:
        return
    forced = dict(member.env).get("NCCL_IB_GID_INDEX", "-1")
    for port in (*choice.in_play, *_missed(choice)):
        if port.link_layer != "Ethernet":
            continue
        if not port.gid_indices:
            yield _no_gid(member, port)
        elif forced.isdecimal() and int(forced) not in port.gid_indices:
            good = list(port.gid_indices)
            found = f"NCCL_IB_GID_INDEX is {forced}, and {port.hca} has RoCE v2 with IPv4 at {good}"
            remedy = "Leave NCCL_IB_GID_INDEX out: NCCL finds it by itself since 2.21"
            yield Problem("roce-gid", member.name, found, f"one of {good}", remedy)


def _missed(choice: Choice) -> tuple[Port, ...]:
    """Ports that were left out for want of a GID alone: a slower one would not have been taken anyway."""
    slowest = min((port.rate for port in choice.hcas), default=0.0)
    return tuple(
        reason.port for reason in choice.reasons.ports if reason.code == "gid" and reason.port.rate >= slowest
    )


def _no_gid(member: Member, port: Port) -> Problem:
    return Problem(
        "roce-gid",
        member.name,
        f"{port.hca} port {port.number} has no RoCE v2 GID of an IPv4 address",
        "one",
        f"Give the interface of {port.hca} an IPv4 address on {member.name} (`show_gids`, `ip addr`)",
        "warning",
    )
