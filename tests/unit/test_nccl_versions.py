"""The reader over what every version of NCCL writes: verdict, edges, link layer, node pairs."""

from __future__ import annotations

import gzip
import lzma
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import cli_nccl
from cluster.log_files import blocks
from cluster.nccl import REQUIRE, Report, holds, read, report_json
from tests.nccllog import NAMES, NETWORKS, VERSIONS, NetworkName, Run, processes, verdict
from tests.ncclnoise import PLAIN, PREFIXES, Way, pieces, text_of, written

RECORDED = Path(__file__).parents[1] / "recorded" / "nccl"
EVERYTHING = Run(groups=("world", "tensor", "pipeline", "messages"))
VARIANTS = {
    "without GPUDirect": replace(EVERYTHING, gdr=False),
    "one channel without GPUDirect": replace(EVERYTHING, without_gdr=frozenset({(3, 0, 0)})),
    "one end without GPUDirect": replace(EVERYTHING, received_without_gdr=frozenset({(3, 0, 0)})),
    "PXN": replace(EVERYTHING, pxn=True),
    "P2P off": replace(EVERYTHING, shm=True),
    "GPUDirect over PCI": replace(EVERYTHING, over_pci=True),
    "channels at init": replace(EVERYTHING, runtime_connect=False),
    "ncclCommSplit": replace(EVERYTHING, by_split=True),
    "two nodes by NCCL_HOSTID": replace(EVERYTHING, one_host=True),
    "times before all lines": replace(EVERYTHING, stamps=True),
    "channels after all have begun": replace(EVERYTHING, connects_late=True, groups=EVERYTHING.groups[:3]),
    "one node": replace(EVERYTHING, nodes=1, gpus=4),
    "three nodes": replace(EVERYTHING, nodes=3, gpus=2, channels=4),
    "one GPU a node": replace(EVERYTHING, nodes=4, gpus=1),
    "more ranks than NCCL lists": replace(EVERYTHING, nodes=4, gpus=8, channels=2, groups=("world",)),
}


def report_of(run: Run, way: Way = PLAIN) -> Report:
    return read([("log", [text_of(pieces(run, way))])])


def true_edges(run: Run) -> set[tuple[object, ...]]:
    return {(hop.src, hop.dst, hop.transport, hop.gdrdma, hop.channel, hop.shared) for hop in run.hops}


def edges(report: Report) -> set[tuple[object, ...]]:
    return {
        (edge.src, edge.dst, edge.transport, edge.gdrdma, channel, edge.shared)
        for edge in report.edges
        for channel in edge.channels
    }


def hosts(run: Run) -> tuple[str, ...]:
    return tuple(f"gpu-{node + 1:02d}" for node in range(run.nodes))


def link_layer(run: Run) -> str | None:
    if run.nodes == 1:
        return None
    return {"IB": "InfiniBand", "HPC-X": "InfiniBand", "RoCE": "RoCE"}.get(run.network)


def check(run: Run, report: Report) -> None:
    assert report.verdict == verdict(run), report.reason
    assert edges(report) == true_edges(run)
    assert report.nodes == hosts(run)
    assert report.link_layer == link_layer(run)
    assert report.network == NAMES[run.network]
    assert [version.split("+")[0] for version in report.nccl_versions] == [run.version]
    assert [(rank.number, rank.node) for rank in report.ranks] == [
        (rank, f"gpu-{run.node(rank) + 1:02d}") for rank in run.ranks
    ]
    assert not report.unfinished
    pairs = {(hosts(run)[run.node(hop.src)], hosts(run)[run.node(hop.dst)]) for hop in run.between_nodes}
    assert {(pair.a, pair.b) for pair in report.node_pairs} == {(min(pair), max(pair)) for pair in pairs}


def shape(message: str) -> str:
    """A message without what differs from run to run: numbers, pointers, names."""
    message = re.sub(r"set by environment to .*", "set by environment to X", message)
    return re.sub(r"(?:(?:0x[0-9a-f]+|\b[0-9a-f]{2,}\b|-?\d+)[ />.]*)+", "#", message).strip()


def shapes(text: str) -> set[str]:
    said = (re.search(r"NCCL (?:INFO|WARN) (.*)|(NCCL version .*)", line) for line in text.splitlines())
    return {shape(found[1] or found[2]) for found in said if found}


@pytest.mark.parametrize("version", ["2.18.1", "2.23.4", "2.30.7"])
def test_the_generator_writes_what_nccl_wrote(version: str) -> None:
    recorded: set[str] = set()
    for file in RECORDED.glob(f"{version}-*.log.gz"):
        recorded |= shapes(gzip.decompress(file.read_bytes()).decode(errors="replace"))
    local = Run(version, network="Socket", nodes=1)
    several = Run(version, network="Socket", one_host=True, groups=("world", "tensor", "messages"))
    for run in (local, replace(local, shm=True), several):
        generated = shapes(text_of(pieces(run)).decode())
        # Two ranks need no trees: the recorded runs have none where channels are made at need.
        assert generated - recorded <= {"Connected all trees"}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_network_of_every_version(version: str, network: NetworkName) -> None:
    run = replace(EVERYTHING, version=version, network=network)
    check(run, report_of(run))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_variant_of_every_version(version: str, variant: str) -> None:
    run = replace(VARIANTS[variant], version=version)
    check(run, report_of(run))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_devices_between_nodes(version: str, network: NetworkName) -> None:
    run = Run(version, network=network)
    found = {edge.device for edge in report_of(run).edges if edge.transport.startswith("NET/")}
    named = {"Socket": {"eth0"}, "OFI": {str(hop.device) for hop in run.between_nodes}}
    assert found == named.get(network, {run.hca(hop.device) for hop in run.between_nodes})


@pytest.mark.parametrize("version", VERSIONS)
def test_a_proxy_is_the_rank_that_sends(version: str) -> None:
    run = Run(version, pxn=True)
    said = {(edge.src, edge.dst): edge.proxy for edge in report_of(run).edges if edge.proxy is not None}
    assert said == {(hop.src, hop.dst): hop.proxy for hop in run.between_nodes}


@pytest.mark.parametrize("stopped", [{3}, {0, 1, 2, 3}], ids=str)
@pytest.mark.parametrize("version", VERSIONS)
def test_ranks_that_do_not_finish(version: str, stopped: set[int]) -> None:
    report = report_of(Run(version, stopped=frozenset(stopped)))
    if version == "2.18.1" and len(stopped) == 4:  # it has no line that says how many ranks there are
        assert report.verdict in ("incomplete", "unknown")
        return
    assert report.verdict == "incomplete"
    assert {rank.rank for rank in report.unfinished} == stopped


@pytest.mark.parametrize("version", VERSIONS)
def test_an_init_that_fails(version: str) -> None:
    report = report_of(Run(version, failed=2))
    assert report.verdict == "failed"
    assert "ibv_modify_qp" in " ".join(report.warnings)
    assert report.problems


@pytest.mark.parametrize("version", VERSIONS)
def test_ports_that_are_merged(version: str) -> None:
    report = report_of(Run(version, merged_ports=True))
    assert (report.verdict, report.link_layer) == ("gdrdma", "InfiniBand")
    assert holds(report, "ib") and not holds(report, "roce")


@pytest.mark.parametrize("gdr", [True, False], ids=["with GPUDirect", "without"])
@pytest.mark.parametrize("version", VERSIONS)
def test_ports_that_are_merged_over_roce(version: str, gdr: bool) -> None:
    """Since 2.24 the line of a merged device says no link layer: it is that of its ports."""
    run = Run(version, network="RoCE", merged_ports=True, gdr=gdr)
    report = report_of(run)
    assert (report.verdict, report.link_layer) == ("gdrdma" if gdr else "roce", "RoCE")
    assert holds(report, "roce") and not holds(report, "ib")
    if run.virtual:
        assert {name for pair in report.node_pairs for name in pair.hcas} <= {
            f"{run.hca(index)}f0+{run.hca(index)}f1" for index in range(run.gpus)
        }


@pytest.mark.parametrize("crlf", [False, True])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_prefix(prefix: str, crlf: bool) -> None:
    for network in NETWORKS:
        run = replace(EVERYTHING, network=network, version="2.26.5")
        check(run, report_of(run, Way(prefix, crlf)))


@pytest.mark.parametrize("prefix", ["none", "vllm-ray", "mpirun"])
def test_files_of_their_own_say_the_same_as_one_interleaved(prefix: str) -> None:
    run = replace(EVERYTHING, network="RoCE", gdr=False)
    logs = [written(run, process, Way(prefix)) for process in processes(run)]
    whole = report_json(report_of(run, Way(prefix, seed=5)))
    assert report_json(read((f"{n}.log", [text_of(log)]) for n, log in enumerate(logs))) == whole
    assert report_json(read([("log", [text_of(log) for log in logs])])) == whole
    assert report_json(read((f"{n}.log", [text_of(log)]) for n, log in enumerate(reversed(logs)))) == whole


def test_the_order_between_processes_does_not_matter() -> None:
    run = replace(EVERYTHING, without_gdr=frozenset({(1, 2, 1)}))
    said = [report_json(report_of(run, Way("ray", seed=seed))) for seed in range(6)]
    assert said == said[:1] * 6


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_blocks_of_any_size(size: int) -> None:
    run = replace(EVERYTHING, network="HPC-X")
    text = text_of(pieces(run, Way("ray-colour")))
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    assert report_json(read([("log", parts)])) == report_json(report_of(run, Way("ray-colour")))


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_a_packed_log_that_was_cut_is_read_as_far_as_it_goes(tmp_path: Path, suffix: str, pack) -> None:  # type: ignore[no-untyped-def]
    run = Run(nodes=4, gpus=4, channels=8)
    file = tmp_path / f"log{suffix}"
    packed = pack(text_of(pieces(run)))
    file.write_bytes(packed)
    assert read([("log", blocks(str(file)))]).verdict == "gdrdma"
    file.write_bytes(packed[: len(packed) * 2 // 3])
    report = read([("log", blocks(str(file)))])
    assert report.ranks
    assert report.verdict in ("incomplete", "unknown")


def test_what_holds() -> None:
    held = {
        name: {need for need in REQUIRE if holds(report_of(run), need)}
        for name, run in {
            "gdrdma": Run(),
            "RoCE with GPUDirect": Run(network="RoCE"),
            "ib": Run(gdr=False),
            "roce": Run(network="RoCE", gdr=False),
            "socket": Run(network="Socket"),
            "plugin": Run(network="OFI"),
            "mixed": Run(without_gdr=frozenset({(3, 0, 0)})),
            "one node": Run(nodes=1),
            "incomplete": Run(stopped=frozenset({1})),
            "failed": Run(failed=1),
        }.items()
    }
    assert held == {
        "gdrdma": {"any", "socket", "ib", "gdrdma"},
        "RoCE with GPUDirect": {"any", "socket", "roce", "gdrdma"},
        "ib": {"any", "socket", "ib"},
        "roce": {"any", "socket", "roce"},
        "socket": {"any", "socket"},
        "plugin": {"any", "socket"},
        "mixed": {"any", "socket"},
        "one node": {"any"},
        "incomplete": set(),
        "failed": set(),
    }


def test_the_command_offers_what_can_be_required() -> None:
    assert set(cli_nccl.REQUIRED) == set(REQUIRE)


def test_interleaving_keeps_each_process_in_order() -> None:
    run = Run()
    log = pieces(run, Way("rank", seed=3))
    for process in processes(run):
        own = [piece.text for piece in log if piece.text.startswith(f"[rank{process.rank}]".encode())]
        assert own == [piece.text for piece in written(run, process, Way("rank"))]
