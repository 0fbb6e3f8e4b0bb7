"""The README's promises: every command stands in it, its inventory parses, its exit codes are right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from cluster import errors
from cluster.cli import EXIT_CODES, cli
from cluster.inventory import parse
from cluster.plan import make_plan

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def commands(group: click.Group, prefix: str = "clusterctl") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}"


def test_every_command_stands_in_it() -> None:
    assert [command for command in commands(cli) if f"`{command}" not in README] == []


def test_every_option_of_the_main_commands_stands_in_it() -> None:
    for name in ("up", "status", "down", "logs", "exec"):
        line = next(line for line in README.splitlines() if line.startswith(f"| `clusterctl {name} "))
        for parameter in cli.commands[name].params:
            if isinstance(parameter, click.Option):
                assert any(option in line for option in parameter.opts), (name, parameter.opts)


def test_its_inventory_is_one() -> None:
    block = next(text for text in re.findall(r"(?:^    .*\n|^\n)+", README, re.M) if "    cluster: " in text)
    inventory = parse("".join(line[4:] for line in block.splitlines(keepends=True)), "README.md")
    assert len(block.strip().splitlines()) <= 15
    assert make_plan(inventory).world_size == 16


def test_its_exit_codes_are_those_of_the_errors() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.M)}
    helped = {int(code) for code in re.findall(r"^  (\d+) ", EXIT_CODES, re.M)}
    raised = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.ClusterctlError)
    }
    assert listed == helped == raised | {errors.EXIT_DONE, errors.EXIT_NO, errors.EXIT_USAGE}


def test_what_it_tells_make_to_do_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    assert set(re.findall(r"`make ([a-z-]+)`|^    make ([a-z-]+)", README, re.M)) != set()
    for first, second in re.findall(r"`make ([a-z-]+)`|^    make ([a-z-]+)", README, re.M):
        assert (first or second) in targets
