"""What clusterctl keeps on the nodes beside what runs: the lock, generations, the roster, the audit. Pure.

It outlives `down`: an epoch that could be taken twice would fence nobody.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from cluster.steps import Argv, Result

FOLDER = ".local/state/clusterctl"
BEGIN = "=== clusterctl record "
# What every command that changes something has to know. The audit and what a generation rendered are read
# by those who ask for them.
SMALL = ("lock", "roster.json", "current", "generations/*/outcome.json", ".*.part", "generations/*/.*.part")

Record = Mapping[str, str]  # {path below the node's folder: its text}


def folder(cluster: str, node: str) -> str:
    """A node's folder, relative to the home folder; of its own, for homes that all nodes share over NFS."""
    return f"{FOLDER}/{cluster}/{node}"


def read(cluster: str, node: str, patterns: tuple[str, ...] = SMALL) -> Argv:
    """Prints the files that match, each behind its path; `patterns` are for sh, and nobody's input."""
    script = (
        f'cd "$HOME"/{shlex.quote(folder(cluster, node))} 2>/dev/null || exit 0\n'
        f"for file in {' '.join(patterns)}; do\n"
        '  [ -f "$file" ] || continue\n'
        f"  printf '\\n{BEGIN}%s\\n' \"$file\"\n"
        '  cat "$file"\n'
        "done"
    )
    return ("sh", "-c", script)


def parse(result: Result) -> Record:
    """What `read` printed."""
    parts = f"\n{result.stdout}".split(f"\n{BEGIN}")[1:]
    found = (part.partition("\n") for part in parts)
    return {path.strip(): text for path, _, text in found}
