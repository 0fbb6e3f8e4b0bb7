"""`clusterctl drill`: options in, one call out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cluster.cli_options import INVENTORY, JSON

if TYPE_CHECKING:
    from cluster.drilling.breaking import Kill

KILLS = ("worker", "head", "server", "link", "engine")


@click.command()
@INVENTORY
@click.option("--kill", required=True, type=click.Choice(KILLS), help="What to break.")
@click.option("--node", metavar="NODE", help="Where; by default the last node that has it.")
@click.option(
    "--for",
    "seconds",
    default=60.0,
    show_default=True,
    type=click.FloatRange(1, 3600),
    help="Seconds that a link stays down; the node puts it back by itself.",
)
@click.option("--yes", is_flag=True, help="Do not ask, where the nodes are no lab of this machine.")
@JSON
def drill(inventory: Path, kill: Kill, node: str | None, seconds: float, yes: bool, as_json: bool) -> int:
    """Break something on purpose, and see it found and healed.

    \b
    --kill worker   SIGKILL to Ray's container on a worker
    --kill head     SIGKILL to Ray's container on the head, and with it the server's
    --kill server   SIGKILL to the server's container
    --kill engine   SIGKILL to vLLM's engine process behind the server
    --kill link     a node's network interface, down for --for seconds

    Small completions are sent all the time. Says how long it took to notice, to serve again, and how many
    requests were lost. Exit code 0 if it serves again.
    """
    from cluster.commands.drill import drill

    return drill(inventory, kill, node, seconds, yes, as_json)
