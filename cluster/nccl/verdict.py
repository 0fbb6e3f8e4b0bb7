"""The one verdict: the worst that holds between nodes, and never better than the log proves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cluster.nccl.events import Quality
from cluster.nccl.model import LinkLayer, Report, Unfinished, Verdict

NO_LAYER = (
    "whether it is InfiniBand or RoCE is not known: some process lacks its line `NET/IB : Using [0]...` "
    "(NCCL_DEBUG_SUBSYS must have INIT and NET)"
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the verdict is drawn from. `qualities` are those between nodes; `doubts` what stands against
    proof; `spans` whether any communicator goes over nodes, `begun` whether any is known at all."""

    failure: str | None
    unfinished: tuple[Unfinished, ...]
    folded: bool
    qualities: frozenset[Quality]
    doubts: tuple[str, ...]
    nodes: tuple[str, ...]
    spans: bool
    begun: bool
    spoke: bool
    link_layer: LinkLayer | None
    network: str | None


def decide(found: Evidence) -> tuple[Verdict, str]:
    """(verdict, why): failures first, then what is certain however the log was cut, then what needs proof."""
    if found.failure:
        return "failed", f"NCCL failed: {found.failure}"
    started = [rank for rank in found.unfinished if rank.started]
    if started and not found.folded:
        return "incomplete", f"{_named(started)} began and did not finish"
    network = found.qualities - {"nvlink"}
    if len(network) > 1:
        return "mixed", f"some channels between nodes are better than others: {_words(network)}"
    if network == {"socket"}:
        return "socket", "all channels between nodes that could be read go over TCP (NET/Socket), not RDMA"
    if found.unfinished and not found.folded:
        return "incomplete", f"{_named(found.unfinished)} never spoke: are the logs of all nodes here?"
    if network == {"plugin"}:
        return (
            "plugin",
            f"channels between nodes go over NCCL's network plugin {found.network or ''}".rstrip(),
        )
    one_node = found.begun and not found.spans and len(found.nodes) < 2
    if one_node and not found.qualities and not found.folded:
        return "intra-node", "no communicator goes over more than one node: nothing is shown between nodes"
    if not found.qualities:
        return "unknown", _silence(found)
    if found.doubts:
        return (
            "unknown",
            f"what can be read is {_words(found.qualities)}, but it is no proof: {found.doubts[0]}",
        )
    return _proven(found, network)


def _proven(found: Evidence, network: frozenset[Quality]) -> tuple[Verdict, str]:
    fabric: str = found.link_layer or "InfiniBand or RoCE"
    if not network:
        return (
            "intra-node",
            "all traffic between nodes stays on NVLink (P2P/MNNVL): the nodes are one NVLink domain",
        )
    if network == {"gdrdma"}:
        fabric = f"NVLink (P2P/MNNVL) or over {fabric}" if "nvlink" in found.qualities else fabric
        reason = f"every channel between nodes goes over {fabric} with GPUDirect RDMA"
        return "gdrdma", reason if found.link_layer else f"{reason}; {NO_LAYER}"
    if found.link_layer is None:
        return "unknown", f"channels between nodes go over RDMA without GPUDirect, but {NO_LAYER}"
    verdict: Verdict = "roce" if found.link_layer == "RoCE" else "ib"
    return verdict, f"channels between nodes go over {fabric}, through host memory: without GPUDirect RDMA"


def _named(ranks: list[Unfinished] | tuple[Unfinished, ...]) -> str:
    communicator = ranks[0].communicator
    own = [rank.rank for rank in ranks if rank.communicator == communicator]
    listed = ", ".join(str(rank) for rank in own[:8]) + (", ..." if len(own) > 8 else "")
    nodes = sorted({rank.node for rank in ranks if rank.node})[:4]
    where = f" ({', '.join(nodes)})" if nodes else ""
    return f"rank{'s' if len(own) > 1 else ''} {listed}{where} of communicator {communicator}"


def _words(qualities: frozenset[Quality]) -> str:
    names = {
        "gdrdma": "RDMA with GPUDirect",
        "rdma": "RDMA without GPUDirect",
        "socket": "TCP",
        "plugin": "a network plugin",
        "nvlink": "NVLink",
        "": "",
    }
    return ", ".join(names[quality] for quality in sorted(qualities))


def _silence(found: Evidence) -> str:
    if not found.spoke:
        return "no line of NCCL's was found: run with NCCL_DEBUG=INFO"
    if found.begun and not found.spans and not found.folded:
        return f"no communicator joins the nodes {', '.join(found.nodes[:4])}: nothing is shown between them"
    if found.doubts:
        return f"no channel between nodes can be read: {found.doubts[0]}"
    return (
        "no line tells of a channel between nodes: they come with the first collective, under NCCL_DEBUG=INFO"
    )


NONE_AT_ALL = ("incomplete", "failed", "unknown")
SATISFIED: Mapping[str, Callable[[Report], bool]] = {
    "any": lambda report: report.verdict not in NONE_AT_ALL,
    "socket": lambda report: report.verdict not in (*NONE_AT_ALL, "intra-node"),
    "ib": lambda report: (
        report.verdict == "ib" or (report.verdict == "gdrdma" and report.link_layer == "InfiniBand")
    ),
    "roce": lambda report: (
        report.verdict == "roce" or (report.verdict == "gdrdma" and report.link_layer == "RoCE")
    ),
    "gdrdma": lambda report: report.verdict == "gdrdma",
}
REQUIRE = tuple(SATISFIED)


def holds(report: Report, require: str) -> bool:
    """Whether the report satisfies `network.require`. Raises KeyError for what is not in REQUIRE.

    `ib` and `roce` need a link layer that is known.
    `socket` asks only that nodes talk; anything better does too. One node alone proves nothing between nodes.
    """
    return SATISFIED[require](report)
