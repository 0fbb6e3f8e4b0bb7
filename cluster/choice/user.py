"""What the user set in the inventory about HCAs and interfaces: it wins, and is named as the reason. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cluster.choice.choice import Port
from cluster.plan import Member


@dataclass(frozen=True)
class HcaSetting:
    """`auto`: to be chosen; `off`: NCCL is to use none; `named`: those that match `ib_hca`."""

    kind: Literal["auto", "off", "named"]
    why: str = ""
    ib_hca: str = ""


def hca_setting(member: Member) -> HcaSetting:
    """From the variables that the node's processes get, wherever in the inventory they come from."""
    env = dict(member.env)
    net = env.get("NCCL_NET", "IB")
    if not net.lower().startswith("ib"):  # IB, and IBext of the HPC-X plugin, which take NCCL_IB_HCA both
        return HcaSetting("off", f"NCCL_NET is {net}, {set_in(member, 'NCCL_NET')}")
    if env.get("NCCL_IB_DISABLE", "0").strip() not in ("", "0"):
        return HcaSetting("off", f"no HCAs, {set_in(member, 'NCCL_IB_DISABLE')}")
    if "NCCL_IB_HCA" in env:
        return HcaSetting("named", set_in(member, "NCCL_IB_HCA"), env["NCCL_IB_HCA"])
    return HcaSetting("auto")


def set_in(member: Member, name: str) -> str:
    """`set in the inventory (env of gpu-02)`: where a variable of a node comes from."""
    if name in member.node.env:
        place = f"env of {member.name}"
    elif name in ("NCCL_IB_DISABLE", "NCCL_IB_HCA") and member.hcas != "auto":
        place = f"hcas of {member.name}" if member.node.hcas is not None else "network.hcas"
    else:
        place = "env or network.nccl_env"
    return f"set in the inventory ({place})"


def is_named(port: Port, ib_hca: str) -> bool:
    """Whether NCCL would take a port with this NCCL_IB_HCA (NCCL user guide: `[^][=]name[:port],...`).

    `^` turns it around, `=` wants whole names instead of prefixes; an empty list takes all.
    """
    text = ib_hca.removeprefix("^")
    exact = text.startswith("=")
    listed = [word for word in text.removeprefix("=").split(",") if word]
    found = not listed or any(_matches(port, word, exact) for word in listed)
    return found != ib_hca.startswith("^")


def _matches(port: Port, word: str, exact: bool) -> bool:
    name, _, rest = word.partition(":")
    number = rest.partition(":")[0]  # a rail and a plane may follow
    if number and number != str(port.number):
        return False
    return port.hca == name if exact else port.hca.startswith(name)
