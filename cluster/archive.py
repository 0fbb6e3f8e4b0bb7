"""The archive for a bug report: every log that was fetched, and what was found, without secrets."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster import __version__
from cluster.collect import Collected
from cluster.doctor.finding import Finding, finding_json
from cluster.doctor.redact import REDACTED, redacted
from cluster.errors import EXIT_USAGE, ClusterctlError
from cluster.log_files import STDIN

README = f"""\
What `clusterctl doctor --collect` found, for a bug report. clusterctl {__version__}.

  findings.json        what the doctor made of it, the first cause first
  nodes.json           versions, clocks (seconds ahead of the operator's), and the nodes that were not reached
  inventory.yaml       the inventory, as it was written
  NODE/*.log           the logs of each node: log_ray and log_serve are the containers', session are Ray's
                       own files, kernel, engine, state and ports what the node says
  files/*              logs that were given as files

Before it was written, these were replaced by {REDACTED}: the values of the inventory's secrets; tokens of
Hugging Face, OpenAI, GitHub, Slack, NVIDIA and AWS, JSON web tokens, Bearer and Authorization headers;
cookies; users, passwords and signatures in URLs; private keys; and the values of what is named like a token,
key, secret or password.
Node names, addresses, paths and prompts that were logged are still in it: look through it before you send it.
"""


class ArchiveError(ClusterctlError):
    """The archive cannot be written."""

    exit_code = EXIT_USAGE


def default_name(cluster: str) -> str:
    """`clusterctl-CLUSTER-TIME.tar.gz`."""
    return f"clusterctl-{cluster}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.tar.gz"


def write_archive(
    path: Path,
    inventory: str,
    collected: Collected,
    findings: Iterable[Finding],
    files: Mapping[str, str],
    secrets: Iterable[str],
) -> None:
    """Write it for its owner alone (mode 0600), every file without secrets. Raises ArchiveError."""
    known = tuple(secrets)
    contents = {**_contents(inventory, collected, findings, known), **_given(files)}
    top = path.name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.fchmod(descriptor, 0o600)  # also where the file was there before
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, text in {"README.txt": README, **contents}.items():
                _add(archive, f"{top}/{name}", redacted(text, known))
    except OSError as error:
        raise ArchiveError(f"cannot write {path}: {error.strerror}") from error


def _contents(
    inventory: str, collected: Collected, findings: Iterable[Finding], secrets: tuple[str, ...]
) -> dict[str, str]:
    about = {
        "clusterctl": __version__,
        "clock_ahead_seconds": {node: round(ahead, 3) for node, ahead in collected.skew.items()},
        "unreachable": dict(collected.unreachable),
    }
    return {
        "findings.json": _json([_without_secrets(finding, secrets) for finding in findings]),
        "nodes.json": _json(about),
        **({"inventory.yaml": inventory} if inventory else {}),
        **dict(_logs(collected)),
    }


def _without_secrets(finding: Finding, secrets: tuple[str, ...]) -> dict[str, Any]:
    """Redacted before it becomes JSON, which would hide what is a quote and what is not."""
    content = finding_json(finding)
    return content | {"evidence": [redacted(text, secrets) for text in content["evidence"]]}


def _logs(collected: Collected) -> Iterator[tuple[str, str]]:
    for node, logs in collected.by_node.items():
        yield from ((f"{node}/{name}.log", text) for name, text in logs.texts.items())


def _given(files: Mapping[str, str]) -> dict[str, str]:
    """By their own names; a number tells those apart that have one name."""
    given: dict[str, str] = {}
    for name, text in files.items():
        own = "stdin.log" if name == STDIN else Path(name).name
        given[f"files/{len(given) + 1}-{own}" if f"files/{own}" in given else f"files/{own}"] = text
    return given


def _json(content: object) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
    archive.addfile(entry, io.BytesIO(data))
