"""`clusterctl doctor`: what went wrong, from the logs of a cluster or from files."""

from __future__ import annotations

import contextlib
import gzip
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import yaml

from cluster import console, fleet
from cluster.archive import default_name, write_archive
from cluster.collect import Collected, collect
from cluster.commands.choose import chosen, narrowed
from cluster.doctor.diagnose import diagnose
from cluster.doctor.finding import Finding, finding_json
from cluster.doctor.load import all_signatures
from cluster.doctor.redact import redacted
from cluster.doctor.report import report
from cluster.doctor.stamps import read_log
from cluster.errors import EXIT_DONE, EXIT_NO, ConnectError, InventoryError, UsageError
from cluster.inventory import Inventory, load
from cluster.inventory.secrets import read_secrets
from cluster.log_lines import LogLine
from cluster.plan import make_plan

STDIN = "-"
LARGEST_INVENTORY = 1_000_000
LARGEST_IN_ARCHIVE = 50_000_000
SUFFIXES = {".gz", ".log", ".txt", ".out", ".err"}
# NODE.PROGRAM.log: what the last part of a file's name may be, where it is not the end of a node's.
PROGRAMS = {
    *("ray", "raylet", "raylet_out", "raylet_err", "gcs_server", "gcs_server_out", "gcs_server_err"),
    *("serve", "vllm", "docker", "podman", "dmesg", "kernel", "syslog", "journal", "ssh", "sshd", "nccl"),
    *("nvidia-smi", "clusterctl"),
}


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
    """An inventory and what its nodes said; or nothing of it."""

    file: Path | None = None
    inventory: Inventory | None = None
    collected: Collected = field(default_factory=Collected)


def doctor(options: Options) -> int:
    """0 nothing wrong, 1 a cause was found, 4 a node could not be reached. Raises ClusterctlError."""
    inventory, logs = _sorted_out(options)
    signatures = all_signatures(options.signatures)
    asked = _ask(inventory, options.nodes) if inventory else _Asked()
    collected = asked.collected
    lines = chain(collected.lines, _of_files(logs, options.nodes))
    findings = diagnose(lines, signatures, collected.skew, collected.names)
    if options.as_json:
        console.emit(to_json(findings, collected.unreachable))
    else:
        console.say(report(findings, collected.unreachable))
    if options.collect or options.output:
        _archive(options, asked, findings, logs)
    if collected.unreachable:
        return ConnectError.exit_code
    return EXIT_NO if _wrong(findings) else EXIT_DONE


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
            "or log files (plain or .gz, - for stdin)"
        )
    inventories = [name for name in options.arguments if name != STDIN and _is_inventory(Path(name))]
    logs = tuple(name for name in options.arguments if name not in inventories)
    if len(inventories) > 1:
        raise UsageError(f"doctor takes one inventory, got {', '.join(inventories)}")
    for name in logs:
        if name != STDIN and not Path(name).is_file():
            raise UsageError(f"{name}: no such file")
    return (Path(inventories[0]) if inventories else None), logs


def _is_inventory(file: Path) -> bool:
    """Whether it is a YAML mapping with `cluster` and `nodes`, or at least was meant to be one."""
    try:
        if file.stat().st_size > LARGEST_INVENTORY:
            return False
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return False
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, TypeError, LookupError):
        return file.suffix in (".yaml", ".yml")  # `load` says what is wrong with it
    return isinstance(content, dict) and {"cluster", "nodes"} <= content.keys()


# --- logs -----------------------------------------------------------------------------------------


def _ask(file: Path, nodes: tuple[str, ...]) -> _Asked:
    inventory = load(file)
    plan = make_plan(inventory)
    members = chosen(plan, nodes)
    with fleet.connect(narrowed(inventory, members), tolerant=True) as lines:
        return _Asked(file, inventory, collect(plan, lines.connections, lines.unreachable))


def _of_files(names: Iterable[str], nodes: tuple[str, ...]) -> Iterator[LogLine]:
    """The lines of all files, each file's own node first of all; those of other nodes are left out."""
    year = datetime.now(UTC).year
    for name in names:
        for line in read_log(*_source_of(name), _text_lines(name), year):
            if not nodes or line.node in nodes:
                yield line


def _source_of(name: str) -> tuple[str, str]:
    """(node, program): `logs/gpu-01.ray.log.gz` is Ray's of gpu-01, until a line says better."""
    path = Path(name)
    while path.suffix in SUFFIXES:
        path = path.with_suffix("")
    if name == STDIN:
        return "", "log"
    node, _, program = path.name.rpartition(".")
    return (node, program) if program in PROGRAMS and node else (path.name, "log")


def _text_lines(name: str) -> Iterator[str]:
    """A file's lines as text, whatever bytes are in it. Raises UsageError."""
    try:
        if name == STDIN:
            yield from _decoded(sys.stdin.buffer)
            return
        with open(name, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            yield from _decoded(gzip.GzipFile(fileobj=file) if packed else file)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error) or "not a log file"
        raise UsageError(f"{name}: {reason}") from error


def _decoded(lines: Iterable[bytes]) -> Iterator[str]:
    return (line.decode("utf-8", errors="replace").rstrip("\r\n") for line in lines)


# --- the archive ----------------------------------------------------------------------------------


def _archive(options: Options, asked: _Asked, findings: Sequence[Finding], logs: tuple[str, ...]) -> None:
    cluster = asked.inventory.cluster if asked.inventory else "logs"
    path = options.output or Path(default_name(cluster))
    text = asked.file.read_text(encoding="utf-8") if asked.file else ""
    secrets = _secrets(asked)
    given = {name: _whole(name) for name in logs if name != STDIN}
    write_archive(path, redacted(text, secrets), asked.collected, findings, given, secrets)
    if not options.as_json:
        console.say(f"\nwritten for a bug report: {path} (look through it before you send it)")


def _secrets(asked: _Asked) -> tuple[str, ...]:
    """The values of the inventory's secrets, those that are to be had here."""
    if asked.inventory is None:
        return ()
    values: list[str] = []
    for name, source in asked.inventory.secrets.items():
        with contextlib.suppress(InventoryError):
            one = asked.inventory.model_copy(update={"secrets": {name: source}})
            values.extend(str.__str__(value) for _, value in read_secrets(one, str(asked.file)))
    return tuple(values)


def _whole(name: str) -> str:
    """A file's text, the end of it where it is beyond all measure."""
    return "\n".join(_text_lines(name))[-LARGEST_IN_ARCHIVE:]
