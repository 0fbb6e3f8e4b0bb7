"""`clusterctl nccl`: options in, one call out."""

from __future__ import annotations

import click

from cluster.cli_options import JSON

REQUIRED = ("any", "socket", "roce", "ib", "gdrdma")


@click.command()
@click.argument("logfiles", nargs=-1, metavar="LOGFILE...")
@click.option(
    "--require",
    type=click.Choice(REQUIRED),
    default="any",
    show_default=True,
    help="What the network between nodes has to be proven to be, for exit code 0.",
)
@JSON
def nccl(logfiles: tuple[str, ...], require: str, as_json: bool) -> int:
    """Say which transport NCCL took between all ranks, from its logs.

    Of any number of ranks, in files of their own or interleaved, with the prefixes of Ray, vLLM, torchrun,
    mpirun and Docker; plain, .gz, .xz or .bz2, - is stdin. NCCL writes what is needed with NCCL_DEBUG=INFO.
    Exit code 1 if --require is not proven.
    """
    from cluster.commands.nccl import nccl

    return nccl(logfiles, require, as_json)
