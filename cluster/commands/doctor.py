"""`clusterctl doctor`: what went wrong, from the logs of a cluster or from files."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import yaml

from cluster import console
from cluster.archive import default_name, write_archive
from cluster.collect import Collected, collect
from cluster.commands.choose import reach
from cluster.doctor.diagnose import diagnose
from cluster.doctor.finding import Finding, finding_json, without_secrets
from cluster.doctor.lines import node_of
from cluster.doctor.load import all_signatures
from cluster.doctor.redact import redacted, secret_values
from cluster.doctor.report import report
from cluster.doctor.stamps import read_log
from cluster.errors import EXIT_DONE, EXIT_NO, ConnectError, InventoryError, UsageError
from cluster.inventory import Inventory, load
from cluster.inventory.secrets import read_secrets
from cluster.log_files import STDIN, check_files, is_read_once, sources, text_lines, whole
from cluster.log_lines import LogLine

LARGEST_INVENTORY = 1_000_000


@dataclass(frozen=True)
class Options:
    """What was asked for: files to read, whom to ask, which signatures, and whether to write an archive."""

    arguments: tuple[str, ...]
    as_json: bool = False
    collect: bool = False
    output: Path | None = None
    signatures: tuple[Path, ...] = ()
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Asked:
    """An inventory, its text and its secrets' values, and what its nodes said; or nothing of it."""

    text: str = ""
    inventory: Inventory | None = None
    secrets: tuple[str, ...] = ()
    collected: Collected = field(default_factory=Collected)


@dataclass
class _Logs:
    """The logs that were given. `once`: the text of those that cannot be read again, for the archive.

    `seen`: the nodes of the lines that were read so far.
    """

    names: tuple[str, ...]
    once: Mapping[str, str] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def lines(self, nodes: tuple[str, ...]) -> Iterator[LogLine]:
        """The lines of all files, each file's own node first of all; those of other nodes are left out."""
        year = datetime.now(UTC).year
        for name, source in sources(self.names).items():
            texts = self.once[name].split("\n") if name in self.once else text_lines(name)
            for line in read_log(*source, texts, year):
                if not nodes or self._is_of(line, nodes):
                    yield line

    def _is_of(self, line: LogLine, nodes: tuple[str, ...]) -> bool:
        said = {line.node, node_of(line, {})}
        self.seen |= said
        return not said.isdisjoint(nodes)

    def whole(self) -> dict[str, str]:
        """{name: text}"""
        return {name: self.once[name] if name in self.once else whole(name) for name in self.names}


def doctor(options: Options) -> int:
    """0 nothing wrong, 1 a cause was found, 4 a node could not be reached. Raises ClusterctlError."""
    inventory, names = _sorted_out(options)
    signatures = all_signatures(options.signatures)
    asked = _ask(inventory, options.nodes) if inventory else _Asked()
    archive = _archive_path(options, asked)
    once = {name: whole(name) for name in names if is_read_once(name)} if archive else {}
    logs, collected = _Logs(names, once), asked.collected
    lines = chain(collected.lines, logs.lines(options.nodes))
    found = diagnose(lines, signatures, collected.skew, collected.names)
    findings = tuple(without_secrets(finding, asked.secrets) for finding in found)
    _check_nodes(options.nodes, {*collected.by_node, *collected.unreachable, *logs.seen})
    if archive:
        text = redacted(asked.text, asked.secrets)
        write_archive(archive, text, collected, findings, logs.whole(), asked.secrets)
    _say(findings, collected, options.as_json, archive)
    if collected.unreachable:
        return ConnectError.exit_code
    return EXIT_NO if _wrong(findings) else EXIT_DONE


def _say(findings: Sequence[Finding], collected: Collected, as_json: bool, archive: Path | None) -> None:
    if as_json:
        console.emit(to_json(findings, collected.unreachable))
        return
    console.say(report(findings, collected.unreachable))
    if archive:
        console.say(f"\nwritten for a bug report: {archive} (look through it before you send it)")


def to_json(findings: Sequence[Finding], unreachable: Mapping[str, str]) -> dict[str, object]:
    """The diagnosis for programs; `ok` where nothing but infos were found and every node answered."""
    return {
        "ok": not _wrong(findings) and not unreachable,
        "findings": [finding_json(finding) for finding in findings],
        "unreachable": dict(unreachable),
    }


def _wrong(findings: Iterable[Finding]) -> bool:
    return any(finding.kind != "info" for finding in findings)


# --- what the arguments are -----------------------------------------------------------------------


def _sorted_out(options: Options) -> tuple[Path | None, tuple[str, ...]]:
    """(the inventory, the logs). Raises UsageError."""
    if not options.arguments:
        raise UsageError(
            "doctor needs something to look at: an inventory (it fetches the logs of all nodes), "
            "or log files (plain, .gz, .xz or .bz2, - for stdin)"
        )
    inventories = [name for name in options.arguments if name != STDIN and _is_inventory(Path(name))]
    logs = tuple(name for name in options.arguments if name not in inventories)
    if len(inventories) > 1:
        raise UsageError(f"doctor takes one inventory, got {', '.join(inventories)}")
    check_files(logs)
    return (Path(inventories[0]) if inventories else None), logs


def _is_inventory(file: Path) -> bool:
    """Whether it is a YAML mapping with `cluster` and `nodes`, or at least was meant to be one."""
    if not file.is_file():
        return False
    meant = file.suffix in (".yaml", ".yml")  # `load` says what is wrong with it
    try:
        if file.stat().st_size > LARGEST_INVENTORY:
            return False
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return False
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, TypeError, LookupError):
        return meant
    return isinstance(content, dict) and (meant or {"cluster", "nodes"} <= content.keys())


def _check_nodes(asked: Iterable[str], seen: Collection[str]) -> None:
    """Raises UsageError for a node that nothing is of."""
    for node in asked:
        if node not in seen:
            there = ", ".join(sorted(filter(None, seen))[:20]) or "nothing"
            raise UsageError(f"--node {node}: no line is of that node; there are lines of {there}")


# --- the nodes ------------------------------------------------------------------------------------


def _ask(file: Path, nodes: tuple[str, ...]) -> _Asked:
    inventory = load(file)
    text = file.read_text(encoding="utf-8")
    secrets = (*_secrets(inventory, file), *secret_values(yaml.safe_load(text)))
    with reach(inventory, nodes, tolerant=True) as at:
        collected = collect(at.plan, at.lines.connections, at.lines.unreachable)
        return _Asked(text, inventory, secrets, collected)


def _secrets(inventory: Inventory, file: Path) -> Iterator[str]:
    """The values of the inventory's secrets, those that are to be had here."""
    for name, source in inventory.secrets.items():
        with contextlib.suppress(InventoryError):
            one = inventory.model_copy(update={"secrets": {name: source}})
            yield from (str.__str__(value) for _, value in read_secrets(one, str(file)))


def _archive_path(options: Options, asked: _Asked) -> Path | None:
    if options.output or not options.collect:
        return options.output
    return Path(default_name(asked.inventory.cluster if asked.inventory else "logs"))
