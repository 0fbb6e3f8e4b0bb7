"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path

import click

INVENTORY = click.argument("inventory", type=click.Path(path_type=Path))
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
NODE = click.option(
    "--node", "nodes", multiple=True, metavar="NAME", help="This node alone; can be repeated."
)
IGNORE = click.option(
    "--ignore", "ignore", multiple=True, metavar="ID", help="Pass over a problem, by its id; can be repeated."
)
