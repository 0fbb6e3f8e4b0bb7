"""`clusterctl nccl`: which transport NCCL took between all ranks, and whether that is good enough."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator

from cluster import console
from cluster.errors import EXIT_DONE, EXIT_NO, UsageError, count, indent
from cluster.log_files import blocks, check_files
from cluster.nccl import Cause, Report, holds, read, report_json
from cluster.nccl.table import (
    LETTER_STYLES,
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
from cluster.steps import Table

WIDEST = 240
MOST_WARNINGS = 5
HOW_TO_LOG = """\
To have NCCL write what is needed:
  NCCL_DEBUG=INFO NCCL_DEBUG_SUBSYS=INIT,BOOTSTRAP,ENV,NET,GRAPH   in the environment of every process
  NCCL_DEBUG_FILE=/log/nccl.%h.%p                                   one file a process, or
  RAY_DEDUP_LOGS=0                                                  so that Ray does not fold lines away
and let the model answer once: channels are made at the first collective."""


def nccl(names: tuple[str, ...], require: str = "any", as_json: bool = False) -> int:
    """0 if `require` holds between nodes, else 1. Raises UsageError."""
    if not names:
        raise UsageError("nccl needs log files to read (plain, .gz, .xz or .bz2, - for stdin)")
    check_files(names)
    report = read((name, blocks(name)) for name in dict.fromkeys(names))
    good = holds(report, require)
    if as_json:
        console.emit({"require": require, "ok": good, **report_json(report)})
    else:
        _say(report)
    if good:
        return EXIT_DONE
    console.complain(f"--require {require} does not hold: the verdict is {report.verdict}")
    return EXIT_NO


def _say(report: Report) -> None:
    _verdict(report)
    if not _has_spoken(report):
        console.say(HOW_TO_LOG)
        return
    for table in (nodes(report), unfinished(report), node_pairs(report), worst_edges(report)):
        _table(table)
    _table(node_matrix(report, _width()))
    ranks = rank_matrix(report, _width())
    _table(ranks)
    if meaning := legend(ranks):
        console.say(meaning)
    for text in _further(report):
        console.say(text)
    for number, cause in enumerate(report.problems):
        console.say("" if number else "\nlikely reasons, the likeliest first:")
        _cause(cause)


def _has_spoken(report: Report) -> bool:
    """Whether there is any line of NCCL."""
    said = (report.ranks, report.nccl_versions, report.environment, report.bootstrap, report.warnings)
    return any(said) or report.verdict == "failed"


def _table(table: Table) -> None:
    if table[1]:
        console.say("")
        console.table(*table, {**STYLES, **LETTER_STYLES})


def _width() -> int | None:
    """Of the terminal, in letters; None for a pipe, which is as wide as one likes."""
    return console.rich_console().width if sys.stdout.isatty() else None


def _verdict(report: Report) -> None:
    """`socket: traffic between nodes runs over TCP (eth0), not InfiniBand`, and what it is concluded from."""
    from rich.text import Text

    verdict = (report.verdict, VERDICT_STYLES[report.verdict])
    line = Text.assemble(verdict, f": {_printable(headline(report))}")
    console.rich_console().print(line, soft_wrap=True)
    if said := _of_what(report):
        console.say(said)


def _of_what(report: Report) -> str:
    parts = (
        f"NCCL {', '.join(report.nccl_versions)}" if report.nccl_versions else "",
        count(len(report.ranks), "rank") if report.ranks else "",
        count(len(report.nodes), "node") if report.nodes else "",
        count(len(report.communicators), "communicator") if report.communicators else "",
        f"network {report.network}" if report.network else "",
    )
    return ", ".join(filter(None, parts))


def _further(report: Report) -> Iterator[str]:
    """Below the tables: what the environment set, and warnings that are not told elsewhere."""
    said = Counter((name, value) for values in report.environment.values() for name, value in values.items())
    if said:
        yield "\nset by environment, as NCCL says:"
    for (name, value), times in sorted(said.items()):
        of = f"   ({times} of {len(report.ranks)} processes)" if times < len(report.ranks) else ""
        yield f"  {name}={_printable(value)}{of}"
    told = (report.reason, *(cause.evidence for cause in report.problems))
    warnings = [text for text in report.warnings if not any(text in said for said in told)]
    if warnings:
        yield "\nNCCL warned:"
    yield from (f"  {_printable(warning)}" for warning in warnings[:MOST_WARNINGS])


def _cause(cause: Cause) -> None:
    """`[nccl-no-hca] NET/IB : No device found.`, and below it what to run."""
    from rich.text import Text

    line = Text.assemble((f"[{cause.id}]", "bold"), f" {_printable(cause.evidence)}")
    console.rich_console().print(line, soft_wrap=True)
    console.say(indent(cause.remedy))


def _printable(text: str) -> str:
    """What a log says cannot move the cursor of a terminal."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return shown if len(shown) <= WIDEST else f"{shown[:WIDEST]}..."
