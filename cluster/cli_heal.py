"""`clusterctl heal`, `restart` and `quarantine`: options in, one call out."""

from __future__ import annotations

from pathlib import Path

import click

from cluster.cli_options import INVENTORY, JSON


@click.command()
@INVENTORY
@JSON
def heal(inventory: Path, as_json: bool) -> int:
    """Make a cluster that should serve, and does not, serve again.

    Says what is wrong and keeps the evidence; then a spare takes the place of each node that is gone, and all
    ranks are started again together. On a cluster that serves there is nothing to do.
    """
    from cluster.commands.heal import heal

    return heal(inventory, as_json)


@click.command()
@INVENTORY
@click.option("--ray", "with_ray", is_flag=True, help="Ray too, and not vLLM alone.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@JSON
def restart(inventory: Path, with_ray: bool, yes: bool, as_json: bool) -> int:
    """Start vLLM again, as it is."""
    from cluster.commands.restart import restart

    return restart(inventory, with_ray, yes, as_json)


@click.command()
@INVENTORY
@click.argument("node", required=False)
@click.option("--reason", metavar="TEXT", help="Why NODE is not to be used.")
@click.option("--release", metavar="NODE", help="This node may be used again; it stands by as a spare.")
@JSON
def quarantine(
    inventory: Path, node: str | None, reason: str | None, release: str | None, as_json: bool
) -> int:
    """List nodes that are not used, and why; with NODE --reason TEXT put one in."""
    from cluster.commands import quarantine as commands

    reason = " ".join(reason.split()) if reason else reason
    if release and (node or reason):
        raise click.UsageError("--release stands alone: one node at a time goes in or comes out")
    if bool(node) != bool(reason):
        raise click.UsageError("NODE and --reason TEXT belong together: who comes later has to know why")
    if release:
        return commands.take_out(inventory, release, as_json)
    if node and reason:
        return commands.put_in(inventory, node, reason, as_json)
    return commands.listed(inventory, as_json)
