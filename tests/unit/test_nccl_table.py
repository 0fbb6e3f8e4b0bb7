"""The report for people: the headline and the tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.nccl.model import Edge, Hca, NodePair, Rank, Report, Unfinished, Verdict
from cluster.nccl.table import (
    CELLS,
    LETTERS,
    NOTHING,
    STYLES,
    VERDICT_STYLES,
    headline,
    legend,
    node_matrix,
    node_pairs,
    nodes,
    rank_matrix,
    unfinished,
    worst_edges,
)

EMPTY = Report("unknown", "", None, None, (), (), (), (), (), (), (), (), {}, {}, {})


def report(
    per_node: int, names: tuple[str, ...], edges: tuple[Edge, ...] = (), pairs: tuple[NodePair, ...] = ()
) -> Report:
    ranks = (
        Rank(node * per_node + local, name, 1000 + local, local, "1b000")
        for node, name in enumerate(names)
        for local in range(per_node)
    )
    return replace(EMPTY, verdict="gdrdma", nodes=names, ranks=tuple(ranks), edges=edges, node_pairs=pairs)


TWO = report(
    2,
    ("gpu-01", "gpu-02"),
    (
        Edge(0, 1, "P2P/CUMEM", None, False, (0, 1)),
        Edge(1, 2, "NET/IB", "mlx5_1", True, (0,)),
        Edge(1, 2, "NET/IB", "mlx5_1", False, (1,)),
        Edge(2, 3, "SHM", None, False, (0, 1)),
        Edge(3, 0, "NET/IB", "mlx5_0", True, (0, 1)),
    ),
    (NodePair("gpu-01", "gpu-02", ("NET/IB",), ("mlx5_0", "mlx5_1"), False),),
)


def test_the_ranks_from_row_to_column() -> None:
    columns, rows = rank_matrix(TWO)
    assert columns == ("from \\ to", "0", "1", "2", "3")
    assert rows == (
        ("0 gpu-01", "-", "P2P", "", ""),
        ("1 gpu-01", "", "-", "IB/IB+GDR", ""),
        ("2 gpu-02", "", "", "-", "SHM"),
        ("3 gpu-02", "IB+GDR", "", "", "-"),
    )


def test_a_pair_of_nodes() -> None:
    assert node_pairs(TWO)[1] == (("gpu-01", "gpu-02", "NET/IB", "mlx5_0, mlx5_1", "on in 3 of 4 channels"),)


def test_the_edges_that_are_worse_than_others() -> None:
    assert worst_edges(TWO) == NOTHING
    _, rows = worst_edges(replace(TWO, verdict="mixed", link_layer="InfiniBand"))
    assert rows == (("1", "2", "NET/IB", "mlx5_1", "off", "1"),)


def test_what_is_not_proven_is_not_on() -> None:
    between = (NodePair("gpu-01", "gpu-02", ("NET/IB",), (), True),)
    said = replace(TWO, node_pairs=between, verdict="unknown")
    assert node_pairs(said)[1][0][-1] == "not proven"
    assert node_pairs(replace(said, verdict="gdrdma"))[1][0][-1] == "on"


def test_who_did_not_finish() -> None:
    lacking = [Unfinished("0xc0", rank, "gpu-01", 1000 + rank, True) for rank in (0, 1, 2, 5)]
    silent = [Unfinished("0xc0", rank, "", None, False) for rank in (6, 7)]
    assert unfinished(TWO) == NOTHING
    assert unfinished(replace(TWO, unfinished=(*lacking, *silent)))[1] == (
        ("0xc0", "0-2, 5", "gpu-01", "began and did not finish"),
        ("0xc0", "6-7", "", "never spoke"),
    )


def test_of_many_that_did_not_finish_some_are_named() -> None:
    lacking = tuple(Unfinished("0xc0", rank, f"n{rank // 2}", 1, True) for rank in range(30))
    rows = unfinished(replace(TWO, unfinished=lacking))[1]
    assert len(rows) == 11
    assert rows[-1] == ("", "and 10 more", "", "")


def test_two_nodes_need_no_matrix_of_their_own() -> None:
    assert node_matrix(TWO) == NOTHING


def test_the_nodes_from_row_to_column() -> None:
    edges = (
        Edge(0, 1, "NET/Socket", "eth0", False, (0,)),
        Edge(1, 2, "NET/AWS Libfabric", "0", True, (0,)),
        Edge(2, 0, "P2P/MNNVL", None, False, (0,)),
        Edge(0, 2, "COLLNET", "0", False, (0,)),
        Edge(2, 1, "NET/IBext_v8", "mlx5_0", True, (0,)),
    )
    found = replace(report(1, ("a", "b", "c"), edges), link_layer="RoCE")
    assert node_matrix(found) == (
        ("from \\ to", "a", "b", "c"),
        (
            ("a", "-", "Socket", "CollNet"),
            ("b", "", "-", "plugin+GDR"),
            ("c", "MNNVL", "RoCE+GDR", "-"),
        ),
    )


def test_of_many_pairs_the_worst_are_shown() -> None:
    names = tuple(f"n{number:02d}" for number in range(12))
    pairs = [(a, b) for a in range(12) for b in range(12) if a < b]
    edges = tuple(
        Edge(
            a,
            b,
            "NET/Socket" if (a, b) == (3, 7) else "NET/IB",
            "mlx5_0",
            (a, b) not in {(3, 7), (0, 1)},
            (0,),
        )
        for a, b in pairs
    )
    between = tuple(NodePair(names[e.src], names[e.dst], (e.transport,), ("x",), e.gdrdma) for e in edges)
    _, rows = node_pairs(report(1, names, edges, between))
    assert [row[:2] for row in rows[:2]] == [("n03", "n07"), ("n00", "n01")]
    assert len(rows) == 11
    assert rows[-1] == ("all", "66 pairs", "", "", "on in 64")


def test_what_the_nodes_are() -> None:
    ports = (Hca(f"mlx5_{number}", 1, "InfiniBand", 400.0) for number in range(2))
    hcas = {"gpu-01": (*ports, Hca("bnxt_re0", 2, "RoCE"), Hca("irdma0", 1, None))}
    found = replace(TWO, hcas=hcas, bootstrap={"gpu-01": "eth0"})
    assert nodes(found)[1] == (
        ("gpu-01", "0-1", "eth0", "mlx5_0, mlx5_1 (InfiniBand 400 Gb/s); bnxt_re0:2 (RoCE); irdma0"),
        ("gpu-02", "2-3", "", "none listed"),
    )


def test_ranks_of_a_node_that_are_not_in_a_row() -> None:
    apart = replace(
        TWO, ranks=tuple(replace(r, node="ab"[r.number % 2]) for r in TWO.ranks), nodes=("a", "b")
    )
    assert [row[1] for row in nodes(apart)[1]] == ["0, 2", "1, 3"]


def test_more_ranks_than_a_screen_holds() -> None:
    assert rank_matrix(report(8, ("a", "b", "c"))) == NOTHING
    assert rank_matrix(report(8, ("a", "b"))) != NOTHING
    assert nodes(report(1, tuple(f"n{number}" for number in range(17)))) == NOTHING
    assert node_matrix(report(1, tuple(f"n{number}" for number in range(17)))) == NOTHING


def sixteen() -> Report:
    ring = [(rank, (rank + 1) % 16) for rank in range(16)]
    edges = (Edge(a, b, "P2P/IPC" if a % 8 != 7 else "NET/IB", "x", a == 7, (0,)) for a, b in ring)
    return report(8, ("a-long-name-of-a-node", "b"), tuple(edges))


def test_letters_where_words_are_too_wide() -> None:
    wide, narrow = rank_matrix(sixteen(), 400), rank_matrix(sixteen(), 80)
    assert wide == rank_matrix(sixteen())
    assert (wide[1][0][2], wide[1][7][9], wide[1][15][1]) == ("P2P", "IB+GDR", "IB")
    assert (narrow[1][0][2], narrow[1][7][9], narrow[1][15][1]) == ("P", "I", "i")
    assert [row[0] for row in narrow[1]] == [str(rank) for rank in range(16)]
    assert legend(narrow) == "i IB, I IB+GDR, P P2P"
    assert legend(wide) == ""


def test_sixteen_ranks_go_into_eighty_letters() -> None:
    columns, rows = rank_matrix(sixteen(), 80)
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    assert sum(widths) + 3 * (len(widths) - 1) <= 80


def test_nodes_that_do_not_fit_have_no_matrix() -> None:
    names = tuple(f"a-long-name-of-node-{number}" for number in range(4))
    assert node_matrix(report(1, names), 80) == NOTHING
    assert node_matrix(report(1, names), 120) != NOTHING


def test_nothing_is_known() -> None:
    assert (nodes(EMPTY), node_pairs(EMPTY), node_matrix(EMPTY), rank_matrix(EMPTY)) == (NOTHING,) * 4


def test_an_edge_of_a_rank_that_is_not_known() -> None:
    lost = replace(TWO, edges=(Edge(0, 9, "NET/IB", "0", True, (0,)),), nodes=("gpu-01", "gpu-02", "c"))
    assert all(cell in ("", "-") for row in node_matrix(lost)[1] for cell in row[1:])


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("gdrdma", "traffic between nodes runs over InfiniBand with GPUDirect RDMA (mlx5_0, mlx5_1)"),
        ("ib", "traffic between nodes runs over InfiniBand (mlx5_0, mlx5_1) without GPUDirect RDMA"),
        ("roce", "traffic between nodes runs over RoCE (mlx5_0, mlx5_1) without GPUDirect RDMA"),
        ("plugin", "traffic between nodes runs over the plugin AWS Libfabric"),
        ("socket", "traffic between nodes runs over TCP (mlx5_0, mlx5_1), not InfiniBand"),
        *((worse, "because") for worse in ("mixed", "intra-node", "incomplete", "failed", "unknown")),
    ],
)
def test_the_headline(verdict: Verdict, words: str) -> None:
    found = replace(TWO, verdict=verdict, link_layer="InfiniBand", network="AWS Libfabric", reason="because")
    assert headline(found).startswith(words)
    assert verdict in VERDICT_STYLES


def test_every_cell_has_a_colour() -> None:
    assert set(CELLS) == set(STYLES) - {"on", "off", "not proven"} == set(LETTERS)
    assert len(set(LETTERS.values())) == len(LETTERS)
