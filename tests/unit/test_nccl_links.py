"""Whose line is it: processes, GPUs, communicators and nodes behind the lines of channels."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.nccl import Hca, Report, read
from cluster.nccl.table import headline
from tests.nccllog import Run, processes


def report(lines: Iterable[str]) -> Report:
    return read([("x", ["".join(f"{line}\n" for line in lines).encode()])])


def begin(
    who: str, pointer: str, rank: int, size: int, device: int, nodes: int, comm: str = "0xee"
) -> tuple[str, ...]:
    """A rank's process begins and completes a communicator; NVML's index is the device's."""
    gpu = f"cudaDev {device} nvmlDev {device} busId {device}0"
    title = f"ncclCommInitRank comm {pointer} rank {rank} nranks {size} {gpu}"
    said = f"{who} [{device}] NCCL INFO "
    return (
        f"{said}{title} commId {comm} - Init START",
        f"{said}comm {pointer} rank {rank} nRanks {size} nNodes {nodes} localRanks 1 localRank 0 MNNVL 0",
        f"{said}{title} commId {comm} - Init COMPLETE",
    )


def test_nvlink_between_nodes_is_no_rdma() -> None:
    """GB200: P2P/MNNVL goes from node to node, and within one too."""
    found = report(
        [
            *begin("a:1:1", "0x1", 0, 2, 0, nodes=2),
            *begin("b:1:1", "0x2", 1, 2, 0, nodes=2),
            "a:1:1 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[0] via P2P/MNNVL",
            "b:1:1 [0] NCCL INFO Channel 00/0 : 1[0] -> 0[0] via P2P/MNNVL",
        ]
    )
    assert found.verdict == "intra-node" and "one NVLink domain" in found.reason
    assert [(pair.a, pair.b, pair.transports, pair.gdrdma) for pair in found.node_pairs] == [
        ("a", "b", ("P2P/MNNVL",), False)
    ]


def test_nvlink_and_rdma_between_nodes_are_both_named() -> None:
    """Three nodes, two of them one NVLink domain: a ring goes over both."""
    lines = [line.text for process in processes(Run(nodes=3, gpus=1, channels=1)) for line in process.lines]
    joined = [
        line.replace("[send] via NET/IB/0/GDRDMA", "via P2P/MNNVL") if "0[0] -> 1[0]" in line else line
        for line in lines
        if not ("0[0] -> 1[0]" in line and "[receive]" in line)
    ]
    found = report(joined)
    assert found.verdict == "gdrdma" and "NVLink (P2P/MNNVL)" in found.reason, found.reason
    assert headline(found).startswith("traffic between nodes runs over NVLink (MNNVL) and InfiniBand")


def test_the_network_within_one_node_is_not_between_nodes() -> None:
    """P2P and SHM both off."""
    found = report(
        [
            *begin("a:1:1", "0x1", 0, 2, 0, nodes=1),
            *begin("a:2:2", "0x2", 1, 2, 1, nodes=1),
            "a:1:1 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] [send] via NET/Socket/0",
            "a:2:2 [1] NCCL INFO Channel 00/0 : 0[0] -> 1[1] [receive] via NET/Socket/0",
        ]
    )
    assert (found.verdict, found.node_pairs) == ("intra-node", ())
    assert [edge.transport for edge in found.edges] == ["NET/Socket"]


def test_two_gpus_of_one_process() -> None:
    found = report(
        [
            *begin("a:1:1", "0x1", 0, 4, 0, nodes=2),
            *begin("a:1:2", "0x2", 1, 4, 1, nodes=2),
            *begin("b:1:1", "0x1", 2, 4, 0, nodes=2),
            *begin("b:1:2", "0x2", 3, 4, 1, nodes=2),
            "a:1:2 [1] NCCL INFO Channel 00/0 : 1[1] -> 2[0] [send] via NET/IB/0/GDRDMA",
            "b:1:1 [0] NCCL INFO Channel 00/0 : 1[1] -> 2[0] [receive] via NET/IB/0",
        ]
    )
    assert [(rank.number, rank.node, rank.pid, rank.device) for rank in found.ranks] == [
        *((0, "a", 1, 0), (1, "a", 1, 1), (2, "b", 1, 0), (3, "b", 1, 1)),
    ]
    (edge,) = found.edges
    assert (edge.src, edge.dst, edge.gdrdma) == (1, 2, False), "one end has no GPUDirect"


def test_a_line_goes_to_the_communicator_that_its_gpus_fit() -> None:
    """Rank 0 of two communicators of two: the peer's GPU tells which."""
    found = report(
        [
            *begin("a:1:1", "0x1", 0, 2, 0, nodes=1, comm="0xaa"),
            *begin("a:2:2", "0x1", 1, 2, 1, nodes=1, comm="0xaa"),
            *begin("a:1:1", "0x2", 0, 2, 0, nodes=2, comm="0xbb"),
            *begin("b:9:9", "0x1", 1, 2, 3, nodes=2, comm="0xbb"),
            "a:1:1 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM",
            "a:1:1 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[3] [send] via NET/Socket/0",
        ]
    )
    assert [(edge.src, edge.dst, edge.transport) for edge in found.edges] == [
        *((0, 1, "P2P/CUMEM"), (0, 2, "NET/Socket")),
    ]


def test_the_rate_and_the_link_layer_of_hcas() -> None:
    rate = "NET/IB: [1] mlx5_0:uverbs0:1/IB provider=mlx5 speed=400000 context=0x5 pciPath=/sys ar=1"
    lines = [line.text for process in processes(Run()) for line in process.lines]
    found = report([*lines, f"gpu-01:1000:1000 [0] NCCL INFO {rate}"])
    assert found.hcas["gpu-01"] == (Hca("mlx5_0", 1, "InfiniBand", 400.0), Hca("mlx5_1", 1, "InfiniBand"))
    assert found.link_layer == "InfiniBand"


def test_pxn_names_the_rank_that_sends() -> None:
    found = report([line.text for process in processes(Run(pxn=True)) for line in process.lines])
    assert found.verdict == "gdrdma"
    assert {edge.proxy for edge in found.edges if edge.transport == "NET/IB"} - {None}


def test_a_pointer_that_is_used_again_is_another_communicator() -> None:
    found = report(
        [
            *begin("a:1:1", "0x1", 0, 1, 0, nodes=1, comm="0xaa"),
            *begin("a:1:1", "0x1", 0, 1, 0, nodes=1, comm="0xbb"),
        ]
    )
    assert [(c.id, c.complete) for c in found.communicators] == [("0xaa", True), ("0xbb", True)]
