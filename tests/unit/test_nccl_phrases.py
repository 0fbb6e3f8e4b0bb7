"""NCCL's sentences, each as some version writes it."""

from __future__ import annotations

import pytest

from cluster.nccl.events import (
    Channel,
    Connected,
    Cut,
    Device,
    Devices,
    Event,
    Init,
    Interface,
    Network,
    PerPeer,
    Rate,
    Ring,
    Span,
    Trees,
    Variable,
    Version,
    Via,
)
from cluster.nccl.phrases import understood

NET = "Channel 00/0 : 0[0] -> 8[0] [send] via NET/"


@pytest.mark.parametrize(
    ("end", "via"),
    [
        ("IB/0", Via("NET/IB", 0)),
        ("IB/0/GDRDMA", Via("NET/IB", 0, gdrdma=True)),
        ("IB/3/GDRDMA(PCI)", Via("NET/IB", 3, gdrdma=True)),
        ("IB/3(5)/GDRDMA/Shared", Via("NET/IB", 3, 5, True, True)),
        ("IB/12/Shared", Via("NET/IB", 12, shared=True)),
        ("IBext_v8/1/GDRDMA", Via("NET/IBext_v8", 1, gdrdma=True)),
        ("Socket/0", Via("NET/Socket", 0)),
        ("AWS Libfabric/2/GDRDMA", Via("NET/AWS Libfabric", 2, gdrdma=True)),
    ],
)
def test_the_network(end: str, via: Via) -> None:
    assert understood(NET + end) == Channel(0, 0, 0, 0, 8, 0, "send", via)


@pytest.mark.parametrize(
    ("via", "transport"),
    [
        ("P2P/CUMEM", "P2P/CUMEM"),
        ("P2P/CUMEM/read/CE", "P2P/CUMEM"),
        ("P2P/IPC", "P2P/IPC"),
        ("P2P/MNNVL", "P2P/MNNVL"),
        ("P2P/direct pointer/read", "P2P/direct pointer"),
        ("P2P/indirect/2[c1000]", "P2P/indirect"),
        ("SHM/direct/direct", "SHM"),
        ("SHM/CE/direct", "SHM"),
        ("SHM/direct", "SHM"),
    ],
)
def test_within_a_node(via: str, transport: str) -> None:
    assert understood(f"Channel 13 : 1[1b000] -> 2[1c000] via {via}") == Channel(
        13, 0, 1, 0x1B000, 2, 0x1C000, "", Via(transport)
    )


def test_the_worth_between_nodes() -> None:
    def of(end: str) -> str:
        event = understood(NET + end)
        assert isinstance(event, Channel)
        return event.via.quality

    assert [of(end) for end in ("IB/0/GDRDMA", "IBext_v8/0", "Socket/0", "AWS Libfabric/0/GDRDMA")] == [
        *("gdrdma", "rdma", "socket", "plugin")
    ]


@pytest.mark.parametrize("at", range(len("Channel"), len(NET + "IB/")))
def test_a_cut_line_of_a_channel_is_no_evidence(at: int) -> None:
    assert isinstance(understood((NET + "IB/")[:at].rstrip()), Cut)


@pytest.mark.parametrize("junk", ["x", " vm:1", "/GDR", "/GDRDMAx", "(", "vm:1:1 [0]", "/Shared/GDRDMA"])
def test_what_runs_into_a_line_makes_it_unreadable(junk: str) -> None:
    assert understood(f"{NET}IB/0{junk}") == Cut(0, 0, 0, 8)


@pytest.mark.parametrize("stump", ["C", "Chan", "CollN"])
def test_a_stump_may_have_been_a_channel(stump: str) -> None:
    assert understood(stump) == Cut()


def test_at_the_end_of_a_file_only_what_cannot_get_better_counts() -> None:
    assert isinstance(understood(NET + "Socket/1", whole=False), Channel)
    assert isinstance(understood(NET + "IB/0/GDRDMA", whole=False), Channel)
    assert understood(NET + "IB/0", whole=False) == Cut(0, 0, 0, 8)


SPLIT = "ncclCommSplit comm 0xa2"
START = "rank 3 nranks 16 cudaDev 3"


@pytest.mark.parametrize(
    ("message", "event"),
    [
        (  # 2.18.1
            f"comm 0xa1 {START} busId 60 commId 0xee - Init COMPLETE",
            Init("0xa1", 3, 16, 3, None, "60", ("0xee",), True),
        ),
        (
            f"ncclCommInitRankConfig comm 0xa1 {START} nvmlDev 3 busId 60 commId 0xee - Init START",
            Init("0xa1", 3, 16, 3, 3, "60", ("0xee",), False),
        ),
        (
            f"[Rank 3] ncclCommInitRank comm 0xa1 {START} nvmlDev 3 busId 60 commId 0xee - Init START",
            Init("0xa1", 3, 16, 3, 3, "60", ("0xee",), False),
        ),
        (
            f"{SPLIT} {START} nvmlDev 3 busId 60 parent 0xa1 splitCount 1 color 7 key 3- Init START",
            Init("0xa2", 3, 16, 3, 3, "60", ("0xa1", "1", "7"), False),
        ),
        (
            f"{SPLIT} {START} nvmlDev 3 busId 60 parent 0xa1 color 0 key 3 commId 0xef - Init START",
            Init("0xa2", 3, 16, 3, 3, "60", ("0xef",), False),
        ),
        ("comm 0xa1 rank 1 nRanks 4 nNodes 2 localRanks 2 localRank 1 MNNVL 0", Span("0xa1", 2)),
        ("Channel 01/02 :    0   1   2   3        ", Ring(1, 2, (0, 1, 2, 3))),
        ("Channel 01/02 : 0 1 2...", Ring(1, 2, (0, 1))),  # it may have been 27
        ("Channel 01/02 : 0...", Ring(1, 2, ())),
        ("Trees [0] 1/2/-1->0->-1 [1] -1/-1/-1->0->3", Trees(((0, 0, -1), (1, 0, 3)))),
        ("Connected all rings", Connected("rings")),
        ("Connected all rings, use ring PXN 0 GDR 1", Connected("rings")),
        ("Connected NVLS tree", Connected("NVLS tree")),
        (
            "2 coll channels, 2 collnet channels, 0 nvls channels, 4 p2p channels, 2 p2p channels per peer",
            PerPeer(2),
        ),
        ("Using network AWS Libfabric", Network("AWS Libfabric")),
        (
            "NET/IB : Using [0]mlx5_0:1/IB [1]rocep1s0:2/RoCE [RO]; OOB eth0:10.0.0.1<0>",
            Devices("IB", ((0, Device("mlx5_0", 1, "IB")), (1, Device("rocep1s0", 2, "RoCE")))),
        ),
        (
            "NET/IB : Using [0]={[0] mlx5_7:1/RoCE, [1] mlx5_6:1/RoCE} [RO]; OOB eth0:10.0.0.1<0>",
            Devices("IB", ((0, Device("mlx5_7+mlx5_6", 1, "RoCE")),)),
        ),
        (
            "NET/IB : Using [0]mlx5_0:1:2:3/IB [1]mlx5_1:1/IB/SHARP ; OOB eth0:10.0.0.1<0>",
            Devices("IB", ((0, Device("mlx5_0", 1, "IB")), (1, Device("mlx5_1", 1, "IB")))),
        ),
        (
            "NET/IB : Made virtual device [8] name=mlx5_0+mlx5_1 speed=800000 ndevs=2",
            Devices("IB", ((8, Device("mlx5_0+mlx5_1", rate=800.0)),)),
        ),
        (
            "NET/IB: [0] mlx5_0:uverbs0:1/IB provider=mlx5 speed=400000 context=0x5 pciPath=/sys ar=0",
            Rate(Device("mlx5_0", 1, "IB", 400.0)),
        ),
        (
            "NET/Socket : Using [0]eth0:10.0.0.1<0> [1]eth1:10.1.0.1<0>",
            Devices("Socket", ((0, Device("eth0")), (1, Device("eth1")))),
        ),
        ("NCCL_IB_HCA set by environment to =mlx5_0,mlx5_1", Variable("NCCL_IB_HCA", "=mlx5_0,mlx5_1")),
        ("NCCL_NVLS_ENABLE set by environment to 0.", Variable("NCCL_NVLS_ENABLE", "0")),
        ("Bootstrap : Using eth0:10.0.0.1<0>", Interface("eth0")),
        ("Bootstrap: Using [0]ib0:10.0.0.1<0>", Interface("ib0")),
        ("NCCL version 2.28.9+cuda13.0", Version("2.28.9")),
        (
            "CollNet 00/0 : 3 [send] via COLLNET/SHARP/0/GDRDMA",
            Channel(0, 0, 3, -1, 3, -1, "send", Via("COLLNET/SHARP", 0, gdrdma=True)),
        ),
        ("Connected to proxy localRank 0 -> connection 0x7f", None),
        ("P2P Chunksize set to 131072", None),
    ],
)
def test_sentences(message: str, event: Event | None) -> None:
    assert understood(message) == event
