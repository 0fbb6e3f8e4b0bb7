"""The command line of a Python program on stdin: by the node's own python3, else by one in a container."""

from __future__ import annotations

import shlex

from cluster.argv.docker import LABEL
from cluster.plan import Member, Plan
from cluster.steps import Argv

# Isolated and without site-packages: the quickest start. What stdin has after the program is the program's.
FROM_STDIN = ("-IS", "-c", "import sys; exec(sys.stdin.read(int(sys.stdin.readline())))")


def on_stdin(program: str) -> str:
    """How the command takes a program: its length, then its text."""
    return f"{len(program)}\n{program}"


def python_on_node(plan: Plan, member: Member, container: str) -> Argv:
    """Run what comes on stdin with the first Python of 3.9 or newer; `container` is the name to give to one.

    Exit code 127 with a reason where there is neither.
    """
    return ("sh", "-c", f"{_own_python(plan)}\n{_in_container(plan, member, container)}")


def _own_python(plan: Plan) -> str:
    venv = plan.runtime.venv
    candidates = shlex.join((*((f"{venv}/bin/python3",) if venv else ()), "python3"))
    return (
        f'for python in {candidates}; do case $("$python" -V 2>&1) in '
        f'"Python 3.9."*|"Python 3."[1-9][0-9].*) exec "$python" {shlex.join(FROM_STDIN)};; esac; done'
    )


def _in_container(plan: Plan, member: Member, container: str) -> str:
    engine = plan.runtime.engine
    if engine == "process":
        return "echo 'there is no python3 of 3.9 or newer' >&2; exit 127"
    run = shlex.join(
        (
            *(engine, "run", "--rm", "--interactive", "--pull", "never", "--network", "host"),
            *("--name", container),
            *("--label", f"{LABEL}cluster={plan.cluster}", "--label", f"{LABEL}node={member.name}"),
            *("--label", f"{LABEL}role=probe"),
            *("--entrypoint", "python3", plan.runtime.image or "", *FROM_STDIN),
        )
    )
    return (
        f"command -v {engine} >/dev/null 2>&1 || "
        f"{{ echo 'there is neither a python3 of 3.9 or newer nor {engine}' >&2; exit 127; }}\n"
        f"exec {run}"
    )
