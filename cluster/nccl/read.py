"""NCCL logs in, a Report out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cluster.nccl import groups as g
from cluster.nccl.causes import causes
from cluster.nccl.clues import BY_ID
from cluster.nccl.devices import with_link
from cluster.nccl.events import Device
from cluster.nccl.lines import scan
from cluster.nccl.links import Link, Links, edges_of, links_of, node_pairs_of
from cluster.nccl.log import Log
from cluster.nccl.model import Hca, LinkLayer, Process, Report
from cluster.nccl.proof import doubts, spans_nodes
from cluster.nccl.state import Speech
from cluster.nccl.verdict import Evidence, decide


def read(sources: Iterable[tuple[str, Iterable[bytes]]], cut: Iterable[str] = ()) -> Report:
    """The report of all sources together; each is (its name, its bytes in blocks of any size).

    Memory grows with the job (ranks, channels), not with the logs. Files of one process each and one file of
    all give the same report: what belongs together is told by NCCL's own `host:pid`. `cut` names sources
    that are known to lack their end or a part: with any of them nothing is proven.
    """
    log = Log(parts=tuple(cut))
    for _, blocks in sources:
        scan(blocks, log.take)
    return _report(log)


def _report(log: Log) -> Report:
    speeches = log.speeches
    groups = g.groups_of(speeches)
    numbers = g.numbering(groups, speeches)
    links = links_of(speeches, groups, numbers)
    found = _evidence(log, groups, numbers, links)
    verdict, reason = decide(found)
    node = {rank.number: rank.node for rank in numbers.ranks}
    return Report(
        verdict=verdict,
        reason=reason,
        link_layer=found.link_layer,
        network=found.network,
        nccl_versions=tuple(sorted(_versions(log), key=g.natural)),
        ranks=numbers.ranks,
        nodes=_nodes(numbers),
        communicators=g.communicators(groups, numbers),
        edges=edges_of(links.links),
        node_pairs=node_pairs_of(links.links, node),
        problems=causes(log, verdict, found),
        unfinished=found.unfinished,
        environment={
            process: dict(sorted(speech.environment.items())) for process, speech in sorted(speeches.items())
        },
        hcas=_hcas(speeches),
        bootstrap=_bootstrap(speeches),
        warnings=tuple(
            f"{p[0]}: {text}" for p, speech in sorted(speeches.items()) for text in speech.warnings
        ),
    )


def _evidence(log: Log, groups: Mapping[g.GroupKey, g.Group], numbers: g.Numbering, links: Links) -> Evidence:
    between = [link for link in links.links if link.between]
    orphans = {
        via.quality for via in links.orphans if via.is_network and via.quality in ("socket", "rdma", "plugin")
    }
    unfinished = g.unfinished(groups, log.speeches)
    done = bool(groups) and not unfinished
    networks = {name for speech in log.speeches.values() for name in speech.networks}
    used = {
        link.via.transport.removeprefix("NET/") for link in between if link.via.transport.startswith("NET/")
    }
    return Evidence(
        failure=_failure(log, done),
        unfinished=unfinished,
        folded=log.folded > 0,
        qualities=frozenset({link.via.quality for link in between} | orphans),
        doubts=doubts(log, groups, numbers, links),
        nodes=_nodes(numbers),
        spans=any(spans_nodes(group, log.speeches) for group in groups.values()),
        begun=any(group.key != g.UNNAMED for group in groups.values()),
        spoke=bool(log.speeches),
        link_layer=_link_layer(between),
        network=", ".join(sorted(networks or used)) or None,
    )


def _failure(log: Log, done: bool) -> str | None:
    """What NCCL said when it failed. A peer that leaves after all were done is a run's end, no failure."""
    for process, speech in sorted(log.speeches.items()):
        for id_, message in speech.failures.items():
            if not (done and BY_ID[id_].late):
                return f"{process[0]}: {message}"
    for process, speech in sorted(log.speeches.items()):
        if speech.errors and not any(member.complete for member in speech.members):
            return f"{process[0]}: {speech.errors[0]}"
    return min(log.outside, default=None)


def _nodes(numbers: g.Numbering) -> tuple[str, ...]:
    return tuple(sorted({rank.node for rank in numbers.ranks if rank.node}, key=g.natural))


def _versions(log: Log) -> set[str]:
    return log.versions.union(*(speech.versions for speech in log.speeches.values()))


def _link_layer(between: Iterable[Link]) -> LinkLayer | None:
    """Of the HCAs used between nodes, if all are known; where they differ, RoCE: it needs more care."""
    layers = {link.device.link for link in between if link.device and link.via.transport.startswith("NET/IB")}
    if not layers <= {"IB", "RoCE"}:
        return None
    return "RoCE" if "RoCE" in layers else "InfiniBand" if layers else None


def _hcas(speeches: Mapping[Process, Speech]) -> Mapping[str, tuple[Hca, ...]]:
    found: dict[str, dict[tuple[str, int], Device]] = {}
    for _, speech in sorted(speeches.items()):
        of_node = found.setdefault(g.node_of(speech), {})
        for device in speech.devices.get("IB", {}).values():
            of_node.setdefault((device.name, device.port), with_link(device, speech))
        of_node.update(speech.rates)
    return {
        node: tuple(
            _hca(device) for _, device in sorted(devices.items(), key=lambda item: g.natural(item[0][0]))
        )
        for node, devices in sorted(found.items())
        if devices
    }


def _hca(device: Device) -> Hca:
    layers: Mapping[str, LinkLayer] = {"IB": "InfiniBand", "RoCE": "RoCE"}
    return Hca(device.name, device.port, layers.get(device.link), device.rate)


def _bootstrap(speeches: Mapping[Process, Speech]) -> Mapping[str, str]:
    return {g.node_of(speech): speech.interface for _, speech in sorted(speeches.items()) if speech.interface}
