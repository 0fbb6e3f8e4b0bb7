"""InfiniBand and RoCE: without any of this NCCL takes TCP, and says so to nobody.

Each check looks at one node and at what was chosen for it with all nodes in view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from cluster.checks.roce import gids
from cluster.choice import NEAR, Choice, Port, PortReason
from cluster.errors import Problem
from cluster.facts import Facts
from cluster.plan import Member, Plan

Check = Callable[[Plan, Member, Facts, Choice], Iterator[Problem]]


def problems(plan: Plan, facts: Mapping[str, Facts], choices: Mapping[str, Choice]) -> Iterator[Problem]:
    """All problems of the HCAs of each node, in order of node rank; differences are those of rails.py."""
    for member in plan.members:
        if member.name in facts:
            yield from named(member, facts[member.name])
            yield from ports(plan, member, choices)
            for check in OF_ONE_NODE:
                yield from check(plan, member, facts[member.name], choices[member.name])


def named(member: Member, facts: Facts) -> Iterator[Problem]:
    if isinstance(member.hcas, str):
        return
    there = [hca.name for hca in facts.hcas]
    for name in member.hcas:
        if name.partition(":")[0] not in there:
            yield Problem(
                "hca-unknown",
                member.name,
                f"no HCA {name}",
                f"one of: {', '.join(there) or 'none'}",
                f"Run `ls /sys/class/infiniband` on {member.name}",
            )


def ports(plan: Plan, member: Member, choices: Mapping[str, Choice]) -> Iterator[Problem]:
    """A port that is named has to work; one that could have been chosen and is down costs bandwidth."""
    choice = choices[member.name]
    for reason in choice.reasons.ports:
        port = reason.port
        if port.active or not (_is_named(member, port) or _is_missed(plan, reason, choices)):
            continue
        by_name = _is_named(member, port)
        yield Problem(
            "ib-port-down",
            member.name,
            f"{port.hca} port {port.number} is {port.state or 'in an unknown state'}"
            + ("" if by_name else _cost(member, port, choices)),
            "ACTIVE",
            f"Run `ibstat {port.hca}` on {member.name}: cable, switch, subnet manager; "
            "or leave it out of hcas",
            "error" if by_name else "warning",
        )


def _is_named(member: Member, port: Port) -> bool:
    return not isinstance(member.hcas, str) and any(n in (port.hca, port.name) for n in member.hcas)


def _is_missed(plan: Plan, reason: PortReason, choices: Mapping[str, Choice]) -> bool:
    """Whether a port that is down would carry traffic if it were up, as far as can be said of it.

    It would not where the link layer is another one than that in use, or where it is the second port of an
    HCA whose first one works, and nobody has connected such a port on any node.
    """
    port = reason.port
    if reason.code not in ("down", "nothing") or not plan.workers:
        return False
    in_use = {layer for choice in choices.values() for layer in choice.link_layers}
    if in_use and port.link_layer and port.link_layer not in in_use:
        return False
    everywhere = [other.port for choice in choices.values() for other in choice.reasons.ports]
    works_elsewhere = any(other.name == port.name and other.active for other in everywhere)
    second = any(other.hca == port.hca and other.active for other in everywhere)
    return works_elsewhere or not second


def _cost(member: Member, port: Port, choices: Mapping[str, Choice]) -> str:
    """What the others do about it, and what remains."""
    left_out = [
        name
        for name, choice in choices.items()
        for reason in choice.reasons.ports
        if name != member.name and reason.code == "rail" and reason.port.name == port.name
    ]
    used = choices[member.name].hcas
    if not used:
        return ""
    remains = f"{len(used)} ports with {sum(one.rate for one in used):g} Gb/s remain"
    if len(used) == 1:
        remains = f"one port with {used[0].rate:g} Gb/s remains"
    return f", so {'no node uses its rail and ' if left_out else ''}{remains}"


def one_link_layer(plan: Plan, member: Member, _: Facts, choice: Choice) -> Iterator[Problem]:
    layers = sorted({port.link_layer for port in choice.in_play})
    if len(layers) > 1 and plan.workers:
        yield Problem(
            "ib-mixed-links",
            member.name,
            f"active HCAs of {' and '.join(layers)}",
            "one link layer, NCCL cannot connect the one to the other",
            "Name the HCAs of one of them in network.hcas",
            "warning",
        )


def in_container(plan: Plan, member: Member, facts: Facts, choice: Choice) -> Iterator[Problem]:
    if not choice.in_play or facts.inside is None or not plan.workers:
        return
    if not any(name.startswith("uverbs") for name in facts.inside.infiniband):
        yield Problem(
            "ib-device-missing",
            member.name,
            f"{len(choice.in_play)} active HCA ports, and no /dev/infiniband/uverbs* where vLLM runs",
            "the devices in the container",
            f"Run `ls /dev/infiniband` on {member.name}; `modprobe ib_uverbs` makes them"
            + ("" if plan.runtime.engine == "process" else ", and clusterctl passes them in"),
        )


def pinned_memory(plan: Plan, member: Member, facts: Facts, choice: Choice) -> Iterator[Problem]:
    if not choice.in_play or facts.inside is None or facts.inside.memlock is None or not plan.workers:
        return
    remedy = (
        f"Set `* - memlock unlimited` in /etc/security/limits.conf on {member.name} and log in again"
        if plan.runtime.engine == "process"
        else f"A rootless or confined {plan.runtime.engine} cannot raise it: use a rootful one"
    )
    yield Problem(
        "ib-memlock",
        member.name,
        f"{facts.inside.memlock // 1024} KiB of memory may be pinned",
        "unlimited, for RDMA",
        remedy,
    )


def gpudirect(plan: Plan, member: Member, facts: Facts, choice: Choice) -> Iterator[Problem]:
    if not choice.in_play or not facts.gpus or not plan.workers:
        return
    if not facts.gpudirect:
        yield Problem(
            "gdr-off",
            member.name,
            "neither nvidia_peermem nor the open kernel modules with DMA-BUF are there",
            "a way for HCAs to reach GPU memory",
            f"Run `sudo modprobe nvidia_peermem` on {member.name}, or install the open kernel modules",
            "warning",
        )
    far = [gpu for gpu, cells in facts.distances.items() if cells and not set(cells.values()) & set(NEAR)]
    if far:
        yield Problem(
            "gdr-off",
            member.name,
            f"{', '.join(far)} share no PCIe switch with an HCA",
            "PIX or PXB in `nvidia-smi topo -m`",
            "Their traffic goes through the CPU; network.nccl_env: {NCCL_NET_GDR_LEVEL: SYS} allows more",
            "warning",
        )


def acs(_: Plan, member: Member, facts: Facts, choice: Choice) -> Iterator[Problem]:
    if facts.acs_bridges and facts.gpus and choice.in_play:
        yield Problem(
            "acs-enabled",
            member.name,
            f"ACS is on for {facts.acs_bridges} PCIe bridges",
            "off between GPUs and HCAs: it sends their traffic through the CPU",
            "Turn ACS off in the BIOS, or with setpci (NCCL user guide: PCI Access Control Services)",
            "warning",
        )


OF_ONE_NODE: tuple[Check, ...] = (one_link_layer, in_container, pinned_memory, gids, gpudirect, acs)
