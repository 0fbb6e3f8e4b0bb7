"""The report for people: a headline, and the tables of nodes, node pairs and ranks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

from cluster.errors import count
from cluster.nccl.model import Edge, Hca, NodePair, Report
from cluster.steps import Row, Table

MOST_RANKS = 16
MOST_NODES = 16
WORST_PAIRS = 10
WORST_EDGES = 10
MOST_NAMES = 8
MOST_UNFINISHED = 10
GAP = 3
UNPROVEN = ("incomplete", "failed", "unknown")
UNSURE = "not proven"
FROM_TO = "from \\ to"

NOTHING: Table = ((), ())

# From the worst to the best: the order in which a cell names them, and in which pairs are shown.
CELLS = (
    *("Socket", "plugin", "CollNet", "RoCE", "IB", "plugin+GDR", "CollNet+GDR", "RoCE+GDR", "IB+GDR"),
    *("SHM", "P2P", "MNNVL"),
)
STYLES: Mapping[str, str] = {
    **dict.fromkeys(("IB+GDR", "RoCE+GDR", "CollNet+GDR", "P2P", "MNNVL", "on"), "green"),
    **dict.fromkeys(("IB", "RoCE", "SHM", "plugin", "plugin+GDR", "CollNet", "off", UNSURE), "yellow"),
    "Socket": "red",
}
LETTERS: Mapping[str, str] = dict(zip(CELLS, "slcriLCRIHPM", strict=True))
LETTER_STYLES: Mapping[str, str] = {letter: STYLES[word] for word, letter in LETTERS.items()}
VERDICT_STYLES: Mapping[str, str] = {
    **dict.fromkeys(("gdrdma", "intra-node"), "bold green"),
    **dict.fromkeys(("ib", "roce", "plugin", "mixed", "unknown"), "bold yellow"),
    **dict.fromkeys(("socket", "incomplete", "failed"), "bold red"),
}


def headline(report: Report) -> str:
    """What the verdict means, in a sentence: `traffic between nodes runs over TCP (eth0), not InfiniBand`."""
    fabric, through = report.link_layer or "RDMA", _through(report)
    nvlink = "NVLink (MNNVL) and " if any("P2P/MNNVL" in p.transports for p in report.node_pairs) else ""
    hosts = "without GPUDirect RDMA: through the hosts' memory"
    ways = {
        "gdrdma": f"{nvlink}{fabric} with GPUDirect RDMA{through}",
        "ib": f"{fabric}{through} {hosts}",
        "roce": f"RoCE{through} {hosts}",
        "plugin": f"the plugin {report.network or 'of an unknown name'}{through}",
        "socket": f"TCP{through}, not InfiniBand",
    }
    way = ways.get(report.verdict)
    return f"traffic between nodes runs over {way}" if way else report.reason


def nodes(report: Report) -> Table:
    """What each node is; none where there are too many."""
    if not 0 < len(report.nodes) <= MOST_NODES:
        return NOTHING
    rows = (
        (
            node,
            _ranges(rank.number for rank in report.ranks if rank.node == node),
            report.bootstrap.get(node, ""),
            _hcas(report.hcas.get(node, ())),
        )
        for node in report.nodes
    )
    return ("node", "ranks", "bootstrap", "HCAs"), tuple(rows)


def node_pairs(report: Report) -> Table:
    """What carries the data of each pair of nodes: every pair, or the worst ones."""
    if not report.node_pairs:
        return NOTHING
    cells, edges = _by_nodes(report), _between(report)
    pairs = list(report.node_pairs)
    if len(pairs) > WORST_PAIRS:
        pairs = sorted(pairs, key=lambda pair: _rank_of(_cell_of(cells, pair)))[:WORST_PAIRS]
    proven = report.verdict not in UNPROVEN
    rows = [_pair(pair, edges.get((pair.a, pair.b), []), proven) for pair in pairs]
    if len(pairs) < len(report.node_pairs):
        on = sum(pair.gdrdma for pair in report.node_pairs)
        summary = f"on in {on}" if proven else UNSURE
        rows.append(("all", count(len(report.node_pairs), "pair"), "", "", summary))
    return ("node", "node", "transport", "through", "GPUDirect RDMA"), tuple(rows)


def worst_edges(report: Report) -> Table:
    """Which ranks the bad channels are of, where some are better than others."""
    if report.verdict != "mixed":
        return NOTHING
    edges = [
        (_rank_of(_cell(edge, report)), edge.src, edge.dst, edge)
        for of_pair in _between(report).values()
        for edge in of_pair
    ]
    best = max((goodness for goodness, *_ in edges), default=0)
    worst = [edge for goodness, *_, edge in sorted(edges, key=itemgetter(0, 1, 2)) if goodness < best]
    rows = (
        (
            *(str(edge.src), str(edge.dst), edge.transport, edge.device or ""),
            *("on" if edge.gdrdma else "off", _ranges(edge.channels)),
        )
        for edge in worst[:WORST_EDGES]
    )
    return ("from rank", "to rank", "transport", "through", "GPUDirect RDMA", "channels"), tuple(rows)


def unfinished(report: Report) -> Table:
    """Which ranks did not finish, together those of one communicator on one node."""
    groups: dict[tuple[str, str, bool], list[int]] = {}
    for rank in report.unfinished:
        groups.setdefault((rank.communicator, rank.node, rank.started), []).append(rank.rank)
    rows = [
        (communicator, _ranges(ranks), node, "began and did not finish" if started else "never spoke")
        for (communicator, node, started), ranks in groups.items()
    ]
    if len(rows) > MOST_UNFINISHED:
        more = len(report.unfinished) - sum(len(ranks) for ranks in list(groups.values())[:MOST_UNFINISHED])
        rows[MOST_UNFINISHED:] = [("", f"and {more} more", "", "")]
    return (("communicator", "its ranks", "node", "what of them"), tuple(rows)) if rows else NOTHING


def node_matrix(report: Report, width: int | None = None) -> Table:
    """Node by node, from row to column: what carries the data, the worst first; none if it is too wide."""
    if not 2 < len(report.nodes) <= MOST_NODES:
        return NOTHING
    table = _matrix(report.nodes, report.nodes, _by_nodes(report))
    return table if width is None or _width(table) <= width else NOTHING


def rank_matrix(report: Report, width: int | None = None) -> Table:
    """Rank by rank, from row to column, in letters where words are too wide; none for more than 16 ranks."""
    if not 1 < len(report.ranks) <= MOST_RANKS:
        return NOTHING
    cells = _joined(((str(edge.src), str(edge.dst)), _cell(edge, report)) for edge in report.edges)
    numbers = tuple(str(rank.number) for rank in report.ranks)
    table = _matrix(numbers, tuple(f"{rank.number} {rank.node}".rstrip() for rank in report.ranks), cells)
    if width is None or _width(table) <= width:
        return table
    letters = {key: LETTERS.get(cell.split("/")[0], cell) for key, cell in cells.items()}
    return _matrix(numbers, numbers, letters)


def legend(table: Table) -> str:
    """`I IB+GDR, P P2P`: what a matrix's letters mean, empty where it has none."""
    used = {cell for row in table[1] for cell in row[1:]}
    return ", ".join(f"{letter} {word}" for word, letter in LETTERS.items() if letter in used)


def _matrix(keys: Row, titles: Row, cells: Mapping[tuple[str, str], str]) -> Table:
    rows = (
        (title, *(cells.get((src, dst), "" if src != dst else "-") for dst in keys))
        for src, title in zip(keys, titles, strict=True)
    )
    return (FROM_TO, *keys), tuple(rows)


def _width(table: Table) -> int:
    """In letters on a screen, as console.table draws it."""
    return sum(max(map(len, column)) + GAP for column in zip(*(table[0], *table[1]), strict=True)) - GAP


def _by_nodes(report: Report) -> dict[tuple[str, str], str]:
    node_of = {rank.number: rank.node for rank in report.ranks}
    return _joined(
        ((node_of[edge.src], node_of[edge.dst]), _cell(edge, report))
        for edge in report.edges
        if edge.src in node_of and edge.dst in node_of
    )


def _cell_of(cells: Mapping[tuple[str, str], str], pair: NodePair) -> str:
    return cells.get((pair.a, pair.b)) or cells.get((pair.b, pair.a)) or ""


def _joined(said: Iterable[tuple[tuple[str, str], str]]) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], set[str]] = {}
    for key, cell in said:
        found.setdefault(key, set()).add(cell)
    return {key: "/".join(sorted(cells, key=_rank_of)) for key, cells in found.items()}


def _rank_of(cell: str) -> int:
    """How bad a cell is, by the worst in it."""
    worst = cell.split("/")[0]
    return CELLS.index(worst) if worst in CELLS else -1


def _cell(edge: Edge, report: Report) -> str:
    """`P2P`, `SHM`, `IB+GDR`, `RoCE`, `Socket`, `plugin`: an edge in one word."""
    kind, _, name = edge.transport.partition("/")
    if kind in ("P2P", "SHM"):
        return "MNNVL" if "MNNVL" in name else kind
    if kind == "NET" and name == "Socket":
        return name
    fabric = "RoCE" if report.link_layer == "RoCE" else "IB"
    word = "CollNet" if kind == "COLLNET" else fabric if name.startswith("IB") else "plugin"
    return f"{word}+GDR" if edge.gdrdma else word


def _pair(pair: NodePair, edges: Sequence[Edge], proven: bool) -> Row:
    devices = sorted({edge.device for edge in edges if edge.device is not None})
    on = sum(len(edge.channels) for edge in edges if edge.gdrdma)
    total = sum(len(edge.channels) for edge in edges)
    sure = "on" if proven else UNSURE
    word = sure if pair.gdrdma else f"on in {on} of {total} channels" if on else "off"
    return pair.a, pair.b, ", ".join(pair.transports), ", ".join(devices), word


def _between(report: Report) -> dict[tuple[str, str], list[Edge]]:
    """{(node, node): the edges between them}, the nodes in order."""
    node_of = {rank.number: rank.node for rank in report.ranks}
    found: dict[tuple[str, str], list[Edge]] = {}
    for edge in report.edges:
        a, b = sorted((node_of.get(edge.src, ""), node_of.get(edge.dst, "")))
        if a != b:
            found.setdefault((a, b), []).append(edge)
    return found


def _through(report: Report) -> str:
    edges = (edge for of_pair in _between(report).values() for edge in of_pair)
    names = sorted({edge.device for edge in edges if edge.device and not edge.device.isdigit()})
    if not names:
        return ""
    more = f", and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f" ({', '.join(names[:MOST_NAMES])}{more})"


def _hcas(hcas: Iterable[Hca]) -> str:
    """`mlx5_0, mlx5_1 (InfiniBand 400 Gb/s); mlx5_2:2 (RoCE)`: a port is named where it is not the first."""
    kinds: dict[str, list[str]] = {}
    for hca in hcas:
        rate = f"{hca.rate:g} Gb/s" if hca.rate is not None else ""
        kind = " ".join(filter(None, (hca.link_layer, rate)))
        kinds.setdefault(kind, []).append(hca.name if hca.port == 1 else f"{hca.name}:{hca.port}")
    parts = (", ".join(names) + (f" ({kind})" if kind else "") for kind, names in kinds.items())
    return "; ".join(parts) or "none listed"


def _ranges(numbers: Iterable[int]) -> str:
    """`0-7, 9`."""
    parts = []
    for _, group in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ", ".join(parts)
