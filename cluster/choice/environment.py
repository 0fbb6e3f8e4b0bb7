"""The variables that follow from a choice, and all that a node's processes should have. Pure."""

from __future__ import annotations

import re

from cluster.choice.choice import ETHERNET, Choice, Port
from cluster.choice.layers import Seen
from cluster.facts import Facts
from cluster.plan import Member

# From this version on NCCL finds the GID by itself; before, it took number 0, which is no RoCE v2 GID of an
# IPv4 address on common HCAs (NCCL user guide, NCCL_IB_GID_INDEX).
FINDS_GID_SINCE = (2, 21)


def variables(seen: Seen, hcas: tuple[Port, ...]) -> dict[str, str]:
    """What clusterctl adds on a node because of its facts: nothing without HCAs, nothing that the user set.

    `=` wants whole names: `mlx5_1` alone would match mlx5_10 to mlx5_19 (NCCL user guide, NCCL_IB_HCA).
    """
    if not hcas:
        return {}
    index = _gid_index(seen.facts, hcas)
    forced = "NCCL_IB_GID_INDEX" in dict(seen.member.env)
    named = seen.setting.kind == "named"
    return {
        **({} if named else {"NCCL_IB_HCA": "=" + ",".join(port.name for port in hcas)}),
        **({} if index is None or forced else {"NCCL_IB_GID_INDEX": str(index)}),
    }


def _gid_index(facts: Facts, hcas: tuple[Port, ...]) -> int | None:
    """The index of a RoCE v2 GID of an IPv4 address that all ports have, where this NCCL has to be told."""
    version = nccl_version(facts)
    if version is None or version >= FINDS_GID_SINCE or any(port.link_layer != ETHERNET for port in hcas):
        return None
    common = set(hcas[0].gid_indices).intersection(*(port.gid_indices for port in hcas))
    return min(common, default=None)


def nccl_version(facts: Facts) -> tuple[int, int] | None:
    """(2, 27) of what vLLM finds where it runs; None: unknown."""
    text = (facts.versions.nccl if facts.versions is not None else None) or ""
    found = re.match(r"([0-9]{1,4})\.([0-9]{1,4})", text)
    return (int(found[1]), int(found[2])) if found else None


def network_env(choice: Choice) -> str:
    """The text of the file `network.env` on a node: NAME=value lines; empty where nothing is to be said."""
    return "".join(f"{name}={value}\n" for name, value in choice.env.items())


def expected_environment(member: Member, choice: Choice) -> dict[str, str]:
    """{name: value} of all that run_cluster.sh gives a node's processes; without the variables of the
    interface where the facts show none, and without secrets."""
    interface = choice.interface
    named = member.interface_variables if interface is not None else ()
    return {**dict(member.env), **{name: f"{prefix}{interface}" for name, prefix in named}, **choice.env}
