"""`clusterctl diff`, `history` and `rollback`: options in, one call out."""

from __future__ import annotations

from pathlib import Path

import click

from cluster.cli_options import IGNORE, INVENTORY, JSON


@click.command()
@INVENTORY
@JSON
def diff(inventory: Path, as_json: bool) -> int:
    """Say what `up` would change, and how what runs deviates from what was brought up.

    Containers that are gone or were restarted, another image, a node that was rebooted, fewer GPUs. Exit code
    2 where anything differs.
    """
    from cluster.commands.diff import diff

    return diff(inventory, as_json)


@click.command()
@INVENTORY
@JSON
def history(inventory: Path, as_json: bool) -> int:
    """List the generations of a cluster, and what became of each."""
    from cluster.commands.history import history

    return history(inventory, as_json)


@click.command()
@INVENTORY
@click.argument("generation", type=int, required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
@IGNORE
@JSON
def rollback(
    inventory: Path, generation: int | None, yes: bool, ignore: tuple[str, ...], as_json: bool
) -> int:
    """Have a former generation serve again; without N the one before.

    It keeps its number. The inventory stays as it is, so that the next `up` would bring it back.
    """
    from cluster.commands.rollback import rollback

    return rollback(inventory, generation, yes, ignore, as_json)
