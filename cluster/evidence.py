"""What a failure leaves to be seen later: logs, container states, OOM, Xid; kept on each node. Pure.

It is what `clusterctl doctor` reads (doctor/sources.py), a file a question, below the generation that failed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator

from cluster import records
from cluster.doctor.sources import questions
from cluster.log_lines import LogLine, read_lines
from cluster.plan import Member, Plan
from cluster.standing import SECRETS
from cluster.steps import Argv, Run

LONGEST = 20  # seconds that one question may take; all are asked at once
LARGEST = 2_000_000  # bytes of each file, the last ones
KEPT = 5  # folders of a generation, the last ones
TIMEOUT = 60.0
SHORTEST_SECRET = 6  # characters; shorter ones would blot out half the log

# The values in secrets.env become ***: what is kept here outlives the file.
WITHOUT_SECRETS = (
    f'FILENAME == ARGV[1] {{ value = substr($0, index($0, "=") + 1)\n'
    f"  if (length(value) >= {SHORTEST_SECRET}) secrets[++count] = value; next }}\n"
    "{ for (i = 1; i <= count; i++) while (at = index($0, secrets[i]))\n"
    '    $0 = substr($0, 1, at - 1) "***" substr($0, at + length(secrets[i]))\n'
    "  print }"
)
PATTERN = re.compile(r"generations/(\d+)/evidence/([^/]+)/(\w+)\.log$")


def steps(plan: Plan, nodes: Collection[str], generation: int, when: str) -> tuple[Run, ...]:
    """Keep the evidence of a generation on these nodes; `when` names it (20261121T052426Z).

    The commands end within LONGEST seconds each, and exit with 0 whatever of it could be had.
    """
    return tuple(
        Run(member.name, _keep(plan, member, generation, when), TIMEOUT)
        for member in plan.members
        if member.name in nodes
    )


def read(cluster: str, node: str, generation: int) -> Argv:
    """Prints the logs that were kept of a generation, for `records.parse`."""
    return records.read(cluster, node, (f"generations/{generation}/evidence/*/log_*.log",))


def lines(node: str, record: records.Record) -> Iterator[LogLine]:
    """Ray's and vLLM's lines of the newest evidence in what `read` printed; none of a container not there."""
    found = [(match[2], match[3], path) for path in record if (match := PATTERN.match(path))]
    newest = max((when for when, _, _ in found), default="")
    for when, name, path in found:
        if when == newest:
            read = read_lines(node, name.removeprefix("log_"), record[path].splitlines())
            yield from (line for line in read if line.time)


def _keep(plan: Plan, member: Member, generation: int, when: str) -> Argv:
    folder = f"{records.folder(plan.cluster, member.name)}/generations/{generation}/evidence"
    asked = "\n".join(_ask(fact.name, fact.command) for fact in questions(plan, member))
    script = (
        f"umask 077; LC_ALL=C; export LC_ALL\n"
        f'secrets="$HOME"/{shlex.quote(f"{member.folder}/{SECRETS}")}\n'
        '[ -r "$secrets" ] || secrets=/dev/null\n'
        f'filter() {{ awk {shlex.quote(WITHOUT_SECRETS)} "$secrets" - | tail -c {LARGEST} >"$1.log"; }}\n'
        f'cd "$HOME" && mkdir -p {shlex.quote(folder)} && cd {shlex.quote(folder)} || exit 0\n'
        f"rm -rf ./*.part && mkdir {when}.part && cd {when}.part || exit 0\n"
        f"{asked}\n"
        f"wait\ncd .. && rm -rf {when} && mv {when}.part {when}\n"
        f'ls | sort -r | tail -n +{KEPT + 1} | while read -r old; do rm -rf "./$old"; done\n'
        ":"
    )
    return ("sh", "-c", script)


def _ask(name: str, command: str) -> str:
    return f"timeout -k 5 {LONGEST} sh -c {shlex.quote(command)} </dev/null 2>&1 | filter {name} &"
