"""`clusterctl watch`: options in, one call out."""

from __future__ import annotations

from pathlib import Path

import click

from cluster.cli_options import INVENTORY, JSON


@click.command()
@INVENTORY
@click.option("--heal", is_flag=True, help="Restart all ranks where it is dead or wedged; spares take over.")
@click.option("--once", is_flag=True, help="One judgement; exit code 0 if it serves, 1 if not.")
@click.option(
    "--install", is_flag=True, help="Have the head watch: a systemd unit there, with --heal or without."
)
@click.option("--uninstall", is_flag=True, help="Remove that unit.")
@JSON
def watch(inventory: Path, heal: bool, once: bool, install: bool, uninstall: bool, as_json: bool) -> int:
    """Tell idle from busy, slow, wedged and dead, until Ctrl-C.

    By vLLM's own counters, and by a real completion where they stand still: a healthy /health proves nothing.
    `watch.interval` and `watch.wedged_after` in the inventory say how often it looks and how long it waits.
    """
    if sum((once or heal, install, uninstall)) > 1 and not (install and heal and not (once or uninstall)):
        raise click.UsageError(
            "--once, --install and --uninstall exclude each other; --heal goes with --install"
        )
    if once and heal:
        raise click.UsageError("--once only looks: `clusterctl heal` heals at once")
    if install or uninstall:
        from cluster.commands.watch_install import install as install_unit
        from cluster.commands.watch_install import uninstall as uninstall_unit

        return install_unit(inventory, heal, as_json) if install else uninstall_unit(inventory, as_json)
    from cluster.commands.watch import watch, watch_once

    return watch_once(inventory, as_json) if once else watch(inventory, heal, as_json)
