"""NCCL's own logs of real runs: four H200 (2.28.9, also under vLLM and Ray), two (2.18.1, 2.23.4, 2.30.7)."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from cluster.nccl import Report, holds, read

HERE = Path(__file__).parent
FOUR = HERE / "doctor"
TWO = HERE / "nccl"
VLLM = TWO / "vllm-ray-two-nodes.log.gz"
VERSIONS = ("2.18.1", "2.23.4", "2.30.7")


def content(file: Path) -> bytes:
    return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()


def report(file: Path) -> Report:
    return read([(file.name, [content(file)])])


def transports(found: Report) -> set[str]:
    return {edge.transport for edge in found.edges}


@pytest.mark.parametrize(("name", "transport"), [("p2p", "P2P/CUMEM"), ("shm", "SHM")])
def test_four_gpus_of_one_node(name: str, transport: str) -> None:
    found = report(FOUR / f"{name}.log")
    assert (found.verdict, found.nodes, found.nccl_versions) == ("intra-node", ("vm",), ("2.28.9",))
    assert transports(found) == {transport}
    assert [rank.bus_id for rank in found.ranks] == ["60", "70", "80", "90"]
    assert found.problems == found.unfinished == found.node_pairs == ()
    assert holds(found, "any") and not holds(found, "socket")


def test_two_nodes_over_tcp() -> None:
    found = report(FOUR / "two_nodes_socket.log")
    assert (found.verdict, found.network, found.link_layer) == ("socket", "Socket", None)
    assert [rank.node for rank in found.ranks] == ["nodeA", "nodeA", "nodeB", "nodeB"]
    assert {(e.src, e.dst) for e in found.edges if e.transport == "NET/Socket" and not e.shared} == {
        *((3, 0), (1, 2), (0, 2), (2, 0)),
    }
    assert {(e.src, e.dst) for e in found.edges if e.shared} == {(0, 2), (1, 3)}
    assert {e.device for e in found.edges if e.transport == "NET/Socket"} == {"eth0"}
    (pair,) = found.node_pairs
    assert (pair.a, pair.b, pair.transports, pair.hcas, pair.gdrdma) == (
        *("nodeA", "nodeB"),
        *(("NET/Socket",), (), False),
    )
    assert [problem.id for problem in found.problems] == ["ib-device-missing"]
    assert found.environment["vm", 1566] == {"NCCL_HOSTID": "nodeB", "NCCL_NVLS_ENABLE": "0"}
    assert found.bootstrap == {"nodeA": "eth0", "nodeB": "eth0"}
    assert [
        requirement for requirement in ("any", "socket", "ib", "roce", "gdrdma") if holds(found, requirement)
    ] == [
        "any",
        "socket",
    ]


def test_an_interface_that_is_not_there() -> None:
    found = report(FOUR / "bad_ifname.log")
    assert found.verdict == "failed" and "no socket interface found" in found.reason
    assert found.problems[0].id == "nccl-no-iface"


def test_vllm_over_ray() -> None:
    """Each line twice, behind two of Ray's prefixes: the process is told by NCCL's own host and pid."""
    found = report(VLLM)
    assert (found.verdict, found.nodes) == ("socket", ("gpu-01", "gpu-02"))
    assert [(rank.number, rank.node, rank.pid, rank.device) for rank in found.ranks] == [
        (0, "gpu-01", 7747, 0),
        (1, "gpu-01", 7748, 1),
        (2, "gpu-02", 7750, 0),
        (3, "gpu-02", 7751, 1),
    ]
    spans = {(communicator.ranks, communicator.nodes) for communicator in found.communicators}
    assert spans == {((0, 1), 1), ((2, 3), 1), ((0, 2), 2), ((1, 3), 2)}
    assert len(found.communicators) == 8 and all(c.complete for c in found.communicators)
    over_network = {(e.src, e.dst) for e in found.edges if e.transport == "NET/Socket"}
    assert over_network == {(0, 2), (2, 0), (1, 3), (3, 1)}
    assert {(e.src, e.dst) for e in found.edges if e.transport == "P2P/CUMEM"} == {
        *((0, 1), (1, 0), (2, 3), (3, 2)),
    }


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "verdict", "problem"),
    [
        ("p2p", "intra-node", None),
        ("shm", "intra-node", None),
        ("socket", "socket", "ib-device-missing"),
        ("bad_ifname", "failed", "nccl-no-iface"),
        ("no_ib", "failed", "nccl-no-network"),
    ],
)
def test_versions(version: str, name: str, verdict: str, problem: str | None) -> None:
    found = report(TWO / f"{version}-{name}.log.gz")
    assert found.verdict == verdict, found.reason
    assert [cause.id for cause in found.problems[:1]] == ([problem] if problem else [])
    if name in ("p2p", "shm", "socket"):
        assert found.nccl_versions == (version,)
        assert len(found.ranks) == 2 and all(c.complete for c in found.communicators)
        p2p = "P2P/IPC" if version == "2.18.1" else "P2P/CUMEM"
        assert transports(found) == {{"p2p": p2p, "shm": "SHM", "socket": "NET/Socket"}[name]}
    if name == "socket":
        assert [rank.node for rank in found.ranks] == ["node0", "node1"]


ALL = (*sorted(FOUR.glob("*.log")), *sorted(TWO.glob("*.gz")))


@pytest.mark.parametrize("file", ALL, ids=lambda file: file.name)
def test_blocks_of_any_size_are_the_same_log(file: Path) -> None:
    text = content(file)
    for size in (1, 7, 1000):
        blocks = (text[at : at + size] for at in range(0, len(text), size))
        assert read([("x", blocks)]) == report(file)


@pytest.mark.parametrize("file", ALL, ids=lambda file: file.name)
def test_one_file_a_process_is_the_same_log(file: Path) -> None:
    """Lines of other processes between them change nothing."""
    by_rank: dict[bytes, list[bytes]] = {}
    for line in content(file).splitlines(keepends=True):
        by_rank.setdefault(line[:7] if line.startswith(b"[rank") else b"", []).append(line)
    files = [(str(rank), [b"".join(lines)]) for rank, lines in by_rank.items()]
    assert read(reversed(files)) == report(file)


def over_rdma(text: bytes) -> bytes:
    """The same run as it would have been over InfiniBand with GPUDirect."""
    listed = b"NET/IB : Using [0]mlx5_0:1/IB [RO]; OOB eth0:192.0.2.2<0>"
    none = b"NET/IB : Using [RO]; OOB eth0:192.0.2.2<0>"
    return (
        text.replace(b"via NET/Socket/0", b"via NET/IB/0/GDRDMA")
        .replace(b"Using network Socket", b"Using network IB")
        .replace(none if none in text else b"NET/IB : No device found.", listed)
    )


BETWEEN_NODES = (FOUR / "two_nodes_socket.log", VLLM, *(TWO / f"{v}-socket.log.gz" for v in VERSIONS))


@pytest.mark.parametrize("file", BETWEEN_NODES, ids=lambda file: file.name)
def test_the_same_runs_over_rdma(file: Path) -> None:
    found = read([("x", [over_rdma(content(file))])])
    assert (found.verdict, found.link_layer) == ("gdrdma", "InfiniBand"), found.reason
    assert [pair.hcas for pair in found.node_pairs] == [("mlx5_0",)] and found.node_pairs[0].gdrdma
    assert found.problems == ()


def test_one_line_of_a_channel_less_is_no_proof() -> None:
    lines = over_rdma(content(FOUR / "two_nodes_socket.log")).splitlines(keepends=True)
    channels = [number for number, line in enumerate(lines) if b"via NET/" in line]
    for number in channels:
        found = read([("x", [b"".join(lines[:number] + lines[number + 1 :])])])
        assert found.verdict == "unknown", lines[number]


def test_one_end_without_gpudirect_is_mixed() -> None:
    lines = over_rdma(content(FOUR / "two_nodes_socket.log")).splitlines(keepends=True)
    for number, line in enumerate(lines):
        if b"/GDRDMA" in line:
            changed = [*lines[:number], line.replace(b"/GDRDMA", b""), *lines[number + 1 :]]
            assert read([("x", [b"".join(changed)])]).verdict == "mixed"


@pytest.mark.parametrize("file", [FOUR / "two_nodes_socket.log"], ids=lambda file: file.name)
def test_a_log_that_ends_early_is_no_proof(file: Path) -> None:
    """Up to the last line that makes a connection: after that nothing is missing."""
    text = over_rdma(content(file))
    end = text.rindex(b"/GDRDMA") + len(b"/GDRDMA")
    for at in range(0, end, 97):
        assert read([("x", [text[:at]])]).verdict != "gdrdma", text[at - 80 : at]


def test_channels_cut_in_two_are_no_proof() -> None:
    lines = over_rdma(content(FOUR / "two_nodes_socket.log")).splitlines(keepends=True)
    number = next(n for n, line in enumerate(lines) if b"[send] via NET/" in line)
    line = lines[number]
    for at in range(line.index(b" NCCL"), len(line) - 1):
        changed = [*lines[:number], line[:at] + b"\n", line[at:], *lines[number + 1 :]]
        assert read([("x", [b"".join(changed)])]).verdict in ("unknown", "mixed"), line[:at]
