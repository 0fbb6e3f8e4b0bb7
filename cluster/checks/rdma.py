"""InfiniBand and RoCE: without any of this NCCL takes TCP, and says so to nobody."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.errors import Problem, Severity
from cluster.facts import Facts
from cluster.facts.hardware import Hca, HcaPort
from cluster.plan import Member, Plan

NEAR = {"PIX", "PXB"}  # NCCL_NET_GDR_LEVEL's default, PXB


def chosen(member: Member, facts: Facts) -> tuple[Hca, ...]:
    """The HCAs that NCCL would use: the named ones, or all."""
    if member.hcas == "none":
        return ()
    if member.hcas == "auto":
        return facts.hcas
    names = {name.partition(":")[0] for name in member.hcas}
    return tuple(hca for hca in facts.hcas if hca.name in names)


def active(member: Member, facts: Facts) -> list[tuple[Hca, HcaPort]]:
    """The ports among them that work, each with its HCA."""
    return [(hca, port) for hca in chosen(member, facts) for port in hca.ports if port.active]


def named(_: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
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


def ports(_: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    """A port that is named has to work; where NCCL chooses by itself, a dead one costs bandwidth."""
    found = chosen(member, facts)
    severity: Severity = "warning" if isinstance(member.hcas, str) else "error"
    for hca in found:
        for port in hca.ports:
            if not port.active and _wanted(member, hca, port):
                yield Problem(
                    "ib-port-down",
                    member.name,
                    f"{hca.name} port {port.number} is {port.state or 'in an unknown state'}",
                    "ACTIVE",
                    f"Run `ibstat {hca.name}` on {member.name}: cable, switch, subnet manager; "
                    "or leave it out of hcas",
                    severity,
                )
    layers = sorted({port.link_layer for _, port in active(member, facts)} - {""})
    if len(layers) > 1:
        yield Problem(
            "ib-mixed-links",
            member.name,
            f"active HCAs of {' and '.join(layers)}",
            "one link layer, NCCL cannot connect the one to the other",
            "Name the HCAs of one of them in network.hcas",
            "warning",
        )


def _wanted(member: Member, hca: Hca, port: HcaPort) -> bool:
    if isinstance(member.hcas, str):
        return True
    numbers = [name.partition(":")[2] for name in member.hcas if name.partition(":")[0] == hca.name]
    return any(number in ("", str(port.number)) for number in numbers)


def in_container(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    if not active(member, facts) or facts.inside is None or not plan.workers:
        return
    if not any(name.startswith("uverbs") for name in facts.inside.infiniband):
        yield Problem(
            "ib-device-missing",
            member.name,
            f"{len(active(member, facts))} active HCA ports, and no /dev/infiniband/uverbs* where vLLM runs",
            "the devices in the container",
            f"Run `ls /dev/infiniband` on {member.name}; `modprobe ib_uverbs` makes them"
            + ("" if plan.runtime.engine == "process" else ", and clusterctl passes them in"),
        )


def pinned_memory(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    if not active(member, facts) or facts.inside is None or facts.inside.memlock is None or not plan.workers:
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


def gids(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    """RoCE between nodes needs a RoCE v2 address with the IPv4 address of its network in it."""
    forced = dict(member.env).get("NCCL_IB_GID_INDEX", "-1")
    for hca, port in active(member, facts) if plan.workers else ():
        if port.link_layer != "Ethernet":
            continue
        good = [gid.index for gid in port.gids if gid.kind == "RoCE v2" and _is_ipv4(gid.address)]
        if not good:
            found = f"{hca.name} port {port.number} has no RoCE v2 GID of an IPv4 address"
            remedy = (
                f"Give the interface of {hca.name} an IPv4 address on {member.name} (`show_gids`, `ip addr`)"
            )
            yield Problem("roce-gid", member.name, found, "one", remedy, "warning")
        elif forced.isdecimal() and int(forced) not in good:
            found = f"NCCL_IB_GID_INDEX is {forced}, and {hca.name} has RoCE v2 with IPv4 at {good}"
            remedy = "Leave NCCL_IB_GID_INDEX out: NCCL finds it by itself since 2.21"
            yield Problem("roce-gid", member.name, found, f"one of {good}", remedy)


def _is_ipv4(address: str) -> bool:
    return address.startswith("0000:0000:0000:0000:0000:ffff:")


def gpudirect(plan: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    if not active(member, facts) or not facts.gpus or len(plan.members) < 2:
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
    far = [gpu for gpu, cells in facts.distances.items() if cells and not set(cells.values()) & NEAR]
    if far:
        yield Problem(
            "gdr-off",
            member.name,
            f"{', '.join(far)} share no PCIe switch with an HCA",
            "PIX or PXB in `nvidia-smi topo -m`",
            "Their traffic goes through the CPU; network.nccl_env: {NCCL_NET_GDR_LEVEL: SYS} allows more",
            "warning",
        )


def acs(_: Plan, member: Member, facts: Facts) -> Iterator[Problem]:
    if facts.acs_bridges and facts.gpus and active(member, facts):
        yield Problem(
            "acs-enabled",
            member.name,
            f"ACS is on for {facts.acs_bridges} PCIe bridges",
            "off between GPUs and HCAs: it sends their traffic through the CPU",
            "Turn ACS off in the BIOS, or with setpci (NCCL user guide: PCI Access Control Services)",
            "warning",
        )
