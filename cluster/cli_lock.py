"""`clusterctl lock ...`: options in, one call out."""

from __future__ import annotations

from pathlib import Path

import click

from cluster.cli_options import INVENTORY, JSON


@click.group()
def lock() -> None:
    """Who is at work on the nodes.

    `up`, `down`, `heal`, `restart` and `rollback` lock them, so that two operators do not meet.
    """


@lock.command(name="status")
@INVENTORY
@JSON
def lock_status(inventory: Path, as_json: bool) -> int:
    """Show who holds the lock of each node: from where, since when, for which command."""
    from cluster.commands.lock import status

    return status(inventory, as_json)


@lock.command(name="release")
@INVENTORY
@click.option("--yes", is_flag=True, help="Do not ask.")
@JSON
def lock_release(inventory: Path, yes: bool, as_json: bool) -> int:
    """Take the lock from its holder, wherever that is.

    Nothing is stopped. What the holder would still do is refused by the nodes, and it ends with exit code 7.
    """
    from cluster.commands.lock import release

    return release(inventory, yes, as_json)
