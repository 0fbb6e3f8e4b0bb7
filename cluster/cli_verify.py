"""`clusterctl verify`: options in, one call out."""

from __future__ import annotations

from pathlib import Path

import click

from cluster.cli_options import IGNORE, INVENTORY, JSON


@click.command()
@INVENTORY
@click.option(
    "--explain", is_flag=True, help="Say which interface and HCAs each node uses and why; measure nothing."
)
@click.option("--live", is_flag=True, help="Look at the served model's own processes and NCCL logs instead.")
@IGNORE
@JSON
def verify(inventory: Path, explain: bool, live: bool, ignore: tuple[str, ...], as_json: bool) -> int:
    """Prove which wires the traffic takes, and how much they carry.

    Collectives between all ranks in the running containers, NCCL's own log of them, and the environment of
    Ray's processes. Exit code 7 where the inventory's network.require or min_bus_bandwidth is not met.
    """
    from cluster.commands.verify import verify

    return verify(inventory, explain, live, ignore, as_json)
