"""The matrix for people: every link while there are few nodes, else the worst ones. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median

from cluster.network.matrix import Link, Matrix
from cluster.steps import Table

MOST_NODES = 10
WORST_LINKS = 10


def columns_and_rows(matrix: Matrix) -> Table:
    """(columns, rows) for console.table; none for a single node."""
    if not matrix.links:
        return (), ()
    return _every_link(matrix) if len(matrix.nodes) <= MOST_NODES else _worst_links(matrix)


def speed(bits_per_second: float) -> str:
    """`23.4 Gb/s`, `940 Mb/s`: SI units, as of interfaces."""
    if bits_per_second >= 1e9:
        return f"{bits_per_second / 1e9:.1f} Gb/s"
    return (
        f"{bits_per_second / 1e6:.0f} Mb/s" if bits_per_second >= 1e7 else f"{bits_per_second / 1e6:.1f} Mb/s"
    )


def _every_link(matrix: Matrix) -> Table:
    cells = {(link.src, link.dst): _cell(link) for link in matrix.links}
    rows = ((src, *(cells.get((src, dst), "") for dst in matrix.nodes)) for src in matrix.nodes)
    return ("from \\ to", *matrix.nodes), tuple(rows)


def _worst_links(matrix: Matrix) -> Table:
    worst = sorted(matrix.links, key=_goodness)[:WORST_LINKS]
    rows = [(link.src, link.dst, _cell(link)) for link in worst]
    return ("from", "to", "network"), (*rows, ("all", "", _summary(matrix)))


def _goodness(link: Link) -> tuple[int, float]:
    """Blocked links first, then unknown ones, too small ones, slow ones."""
    if link.connected is not True:
        return (0 if link.connected is False else 1), 0.0
    return (2 if link.mtu_passes is False else 3), link.bits_per_second or 0.0


def _cell(link: Link) -> str:
    if link.connected is not True:
        return link.why or "not measured"
    rtt = f"{link.rtt_seconds * 1000:.2f} ms" if link.rtt_seconds is not None else ""
    rate = speed(link.bits_per_second) if link.bits_per_second is not None else link.why
    small = f"no {link.mtu}-byte packets" if link.mtu_passes is False else ""
    return " ".join(filter(None, (rtt, rate, small))) or "connects"


def _summary(matrix: Matrix) -> str:
    links = matrix.links
    connected = sum(link.connected is True for link in links)
    unknown = sum(link.connected is None for link in links)
    return ", ".join(
        (
            f"{connected} of {len(links)} links connect",
            *((f"{unknown} not measured",) if unknown else ()),
            *_median((link.rtt_seconds for link in links), lambda rtt: f"{rtt * 1000:.2f} ms"),
            *_median((link.bits_per_second for link in links), speed),
        )
    )


def _median(values: Iterable[float | None], words: Callable[[float], str]) -> tuple[str, ...]:
    known = [value for value in values if value is not None]
    return (f"median {words(median(known))}",) if known else ()
