"""The engine "process": what a container engine does for clusterctl, on nodes that have none.

    cd FOLDER    # the one above on_node/
    python3 -m on_node.processes start   --dir D --name N [--label k=v ...] [--workdir W] -- ARGV...
    python3 -m on_node.processes inspect --dir D
    python3 -m on_node.processes logs    --dir D --name N [--since SECONDS|RFC3339] [--tail N] [--follow]
    python3 -m on_node.processes exec    --dir D --name N -- ARGV...
    python3 -m on_node.processes stop    --dir D --name N [--timeout S]
    python3 -m on_node.processes remove  --dir D --name N

D is the node's directory; D/N holds the state of the process (process_state.py) and its log (process_log.py).
`start` leaves a supervisor behind (supervisor.py); what the kernel says stands in process_table.py. They
import each other by relative names only: here they are part of clusterctl, on a node they stand alone.

Needs /proc, hence Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import process_log
from .process_state import Refused, kill_all, lock_of, locked, members, public, state_of, supervised
from .process_table import MARK, environment_of, is_same, shared_memory, unlink_unused, wait_until
from .supervisor import LAST_OUTPUT_S, launch

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def main() -> None:
    arguments = parse_arguments(sys.argv[1:])
    try:
        sys.exit(arguments.verb(arguments))
    except Refused as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # whoever read our output is gone, e.g. `logs --follow` over a closed connection
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except KeyboardInterrupt:
        sys.exit(130)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    own, command = split_at_dashes(argv)
    parser = argparse.ArgumentParser(description="Run processes as a container engine would.")
    verbs = parser.add_subparsers(required=True)

    def add(name: str, verb: Callable[[argparse.Namespace], int | None], named: bool = True) -> Any:
        one = verbs.add_parser(name)
        one.set_defaults(verb=verb, command=command)
        one.add_argument("--dir", type=Path, required=True)
        if named:
            one.add_argument("--name", type=valid_name, required=True)
        return one

    start_parser = add("start", start)
    start_parser.add_argument("--label", action="append", default=[], type=key_value)
    start_parser.add_argument(
        "--workdir", type=Path, default=Path(), help="where it runs; here, if not given"
    )
    add("inspect", inspect, named=False)
    logs_parser = add("logs", show_logs)
    logs_parser.add_argument("--since", default="", help="seconds ago, or a time as in the log")
    logs_parser.add_argument("--tail", type=int, default=-1)
    logs_parser.add_argument("--follow", action="store_true")
    add("exec", execute)
    add("stop", stop).add_argument(
        "--timeout", type=float, default=10.0, help="seconds between SIGTERM and SIGKILL"
    )
    add("remove", remove)
    arguments = parser.parse_args(own)
    arguments.dir = arguments.dir.resolve()
    if bool(command) != (arguments.verb in (start, execute)):
        parser.error("start and exec, and only they, take a command after --")
    return arguments


def split_at_dashes(argv: list[str]) -> tuple[list[str], list[str]]:
    """What is ours and what follows the first `--`; argparse would swallow options of the command."""
    at = argv.index("--") if "--" in argv else len(argv)
    return argv[:at], argv[at + 1 :]


def valid_name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name: letters, digits, '_', '.', '-'")
    return text


def key_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    return key, value


# The verbs


def start(arguments: argparse.Namespace) -> None:
    folder = arguments.dir / arguments.name
    with locked(folder) as lock:
        if state_of(folder).get("running"):
            raise Refused(f"{arguments.name} is running")
        if members(folder):
            raise Refused(f"processes of an earlier {arguments.name} are still there; stop it first")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        launch(folder, dict(arguments.label), arguments.command, arguments.workdir, lock)


def inspect(arguments: argparse.Namespace) -> None:
    folders = sorted(path.parent for path in arguments.dir.glob("*/state.json"))
    print(json.dumps([public(state) for state in map(state_of, folders) if state]))


def show_logs(arguments: argparse.Namespace) -> None:
    folder, _ = known(arguments)
    process_log.show(folder, arguments.since, arguments.tail, arguments.follow)


def execute(arguments: argparse.Namespace) -> None:
    """Become the command, in the environment and working directory of the process."""
    folder, state = known(arguments)
    environment = environment_of(state["pid"]) if state["running"] else {}
    if not environment:
        raise Refused(f"{arguments.name} is not running")
    with contextlib.suppress(OSError):
        os.chdir(f"/proc/{state['pid']}/cwd")
    try:
        os.execvpe(arguments.command[0], arguments.command, {**environment, MARK: str(folder)})
    except OSError as error:
        raise Refused(f"{arguments.command[0]}: {error.strerror}") from None


def stop(arguments: argparse.Namespace) -> None:
    """SIGTERM to the process, as a container engine does it; when it has ended, or has not in time, SIGKILL
    to all.
    """
    folder, state = known(arguments)
    with locked(folder):
        segments = shared_memory(members(folder))
        if state["running"]:
            signal_process(state, signal.SIGTERM)
            wait_until(lambda: not is_same(state["pid"], state["pid_started"]), arguments.timeout)
        left = kill_all(folder)
        if left:
            raise Refused(f"{arguments.name}: SIGKILL does not end {', '.join(map(str, sorted(left)))}")
        wait_until(lambda: not supervised(folder), LAST_OUTPUT_S + 1)  # it writes down the exit code
        unlink_unused(segments)


def signal_process(state: dict[str, Any], number: int) -> None:
    if is_same(state["pid"], state["pid_started"]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(state["pid"], number)


def remove(arguments: argparse.Namespace) -> None:
    folder = arguments.dir / arguments.name
    with locked(folder):
        if state_of(folder).get("running") or members(folder):
            raise Refused(f"{arguments.name} is running; stop it first")
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.unlink(lock_of(folder))


def known(arguments: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    folder = arguments.dir / arguments.name
    state = state_of(folder)
    if not state:
        raise Refused(f"{arguments.name}: nothing of that name was started in {arguments.dir}")
    return folder, state


if __name__ == "__main__":
    main()
