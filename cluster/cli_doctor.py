"""`clusterctl doctor`: options in, one call out."""

from __future__ import annotations

from pathlib import Path

import click

from cluster.cli_options import JSON, NODE


@click.command()
@click.argument("arguments", nargs=-1, metavar="[INVENTORY | LOGFILE...]")
@click.option("--collect", "collecting", is_flag=True, help="Write all logs to an archive, without secrets.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The archive to write; by default clusterctl-CLUSTER-TIME.tar.gz.",
)
@click.option(
    "--signatures",
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="A folder of signatures of your own, as YAML; can be repeated.",
)
@NODE
@JSON
def doctor(
    arguments: tuple[str, ...],
    collecting: bool,
    output: Path | None,
    signatures: tuple[Path, ...],
    nodes: tuple[str, ...],
    as_json: bool,
) -> int:
    """Say what went wrong, from logs.

    With an inventory, from those of all nodes: Ray, vLLM, NCCL, the engine, the kernel. Or from files, plain
    or gzipped; - is stdin. Exit code 1 if a cause was found, 0 if nothing looks wrong.
    """
    from cluster.commands.doctor import Options, doctor

    return doctor(Options(arguments, as_json, collecting, output, signatures, nodes))
