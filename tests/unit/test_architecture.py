"""What keeps the program readable: pure modules stay pure, imports go downward, help is quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import click
import pytest

from cluster.cli import cli

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "cluster"
MODULES = sorted(PACKAGE.rglob("*.py"))

# From the top to the bottom: a module imports from its own line and from those below it.
LAYERS = (
    ("cli",),
    (
        "cli_drill",
        "cli_generations",
        "cli_heal",
        "cli_lab",
        "cli_lock",
        "cli_fit",
        "cli_doctor",
        "cli_nccl",
        "cli_verify",
        "cli_watch",
    ),
    ("cli_options",),
    ("commands.",),
    ("watching", "requesting"),
    ("played",),
    ("journal",),
    ("operation",),
    ("survey",),
    ("archive",),
    ("fleet", "lines", "gather", "reporter", "measure", "collect"),
    ("apply", "console", "hooks", "ssh", "log_files", "lab."),
    ("holding",),
    ("fenced", "holder", "locks"),
    ("connection", "parallel", "ssh_open"),
    ("restarts", "watch_unit"),
    ("phases",),
    ("proof.", "network_file", "folder", "evidence", "generations."),
    ("healing.", "drilling."),
    ("standing", "health", "prediction", "checks.", "network.", "liveness."),
    ("join", "choice."),
    ("doctor.",),
    ("facts.",),
    ("render",),
    ("argv.",),
    ("plan", "on_node."),
    ("ssh_target", "fit.", "nccl."),
    ("inventory.",),
    ("lock.", "records."),
    ("steps", "log_lines"),
    ("errors",),
    ("",),
)
PURE = (
    *(
        "checks.",
        "plan",
        "phases",
        "restarts",
        "watch_unit",
        "network_file",
        "folder",
        "evidence",
        "standing",
        "prediction",
        "join",
        "health",
        "render",
        "steps",
        "log_lines",
        "ssh_target",
        "errors",
    ),
    *(
        "choice.",
        "drilling.",
        "proof.",
        "argv.",
        "facts.",
        "fit.",
        "doctor.",
        "inventory.",
        "network.",
        "nccl.",
        "lock.",
        "records.",
        "generations.",
        "healing.",
        "liveness.",
    ),
)
EFFECTS = {"click", "paramiko", "subprocess", "socket", "time", "os", "threading", "rich"}
WITH_EFFECTS = ("inventory.load", "inventory.secrets")


def name_of(file: Path) -> str:
    """`facts.engine`; a package is `facts.`, the root ``."""
    name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix("__init__")


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(name == p or (p.endswith(".") and f"{name}.".startswith(p)) for p in patterns)


@lru_cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def imports(file: Path, at_module_level: bool = False) -> Iterator[str]:
    """Dotted names; `from cluster import plan` is `cluster.plan`. Those for type checkers do not count."""
    tree = tree_of(file)
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in tree.body if at_module_level else ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(name: str) -> int:
    """How far down; -1 for a module that stands nowhere."""
    return next((number for number, names in enumerate(LAYERS) if matches(name, names)), -1)


@pytest.mark.parametrize(
    "file",
    [file for file in MODULES if matches(name_of(file), PURE) and name_of(file) not in WITH_EFFECTS],
    ids=name_of,
)
def test_pure_modules_import_nothing_that_acts(file: Path) -> None:
    assert not {name.partition(".")[0] for name in imports(file)} & EFFECTS


def test_every_module_stands_in_a_layer() -> None:
    assert [name_of(file) for file in MODULES if layer(name_of(file)) < 0] == []


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_imports_go_downward(file: Path) -> None:
    files = {name_of(module).rstrip(".") for module in MODULES}
    upward = []
    for name in imports(file):
        if name.partition(".")[0] != "cluster":
            continue
        target = name.removeprefix("cluster").removeprefix(".")
        while target not in files:
            target = target.rpartition(".")[0]
        if layer(target) < layer(name_of(file).rstrip(".")):
            upward.append(name)
    assert not upward


def test_no_module_above_300_lines() -> None:
    assert not [
        (name_of(file), lines) for file in MODULES if (lines := len(file.read_text().splitlines())) > 300
    ]


def test_what_runs_on_nodes_is_never_imported_at_module_level() -> None:
    heavy = {"ray", "torch", "vllm", "paramiko", "transformers"}
    for file in MODULES:
        if PACKAGE / "on_node" not in file.parents:
            assert not {name.partition(".")[0] for name in imports(file, at_module_level=True)} & heavy


@pytest.mark.parametrize("argv", [["--help"], ["up", "--help"], ["lab", "--help"], ["--version"]])
def test_help_is_quick(argv: list[str]) -> None:
    program = (
        "import sys; from cluster.cli import main; code = main(sys.argv[1:]); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr); sys.exit(code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *argv], capture_output=True, text=True, cwd=ROOT, check=True
    )
    slow = {
        "ray",
        "torch",
        "vllm",
        "paramiko",
        "pydantic",
        "yaml",
        "jinja2",
        "rich",
        "tenacity",
        "cryptography",
    }
    assert not set(result.stderr.split()) & slow
    assert "clusterctl" in result.stdout


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield " ".join([*path, name]), command
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


@pytest.mark.parametrize(("name", "command"), [pytest.param(*found, id=found[0]) for found in commands(cli)])
def test_every_command_has_help(name: str, command: click.Command) -> None:
    assert command.help and command.help.strip().splitlines()[0].endswith(".")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help or parameter.name == "output", f"{name} {parameter.name}"


def test_the_commands() -> None:
    names = {name for name, _ in commands(cli)}
    assert {
        "up",
        "status",
        "down",
        "logs",
        "exec",
        "render",
        "inventory schema",
        "lab up",
        "lab down",
    } <= names


def test_exit_codes_stand_in_the_help() -> None:
    from cluster import errors

    assert cli.epilog
    shown = {int(line.split()[0]) for line in cli.epilog.splitlines() if line.strip()[:1].isdigit()}
    codes = {error.exit_code for error in errors.ClusterctlError.__subclasses__()}
    assert codes <= shown
    assert {errors.EXIT_DONE, errors.EXIT_NO, errors.EXIT_USAGE, errors.EXIT_BUG} <= shown
