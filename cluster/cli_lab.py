"""`clusterctl lab ...`: options in, one call out."""

from __future__ import annotations

from pathlib import Path

import click

from cluster.cli_options import JSON

FAULTS = (
    *("link-down", "partition", "latency", "loss", "bandwidth", "kill", "freeze"),
    *("fill-disk", "skew-clock", "reboot", "power-off"),
)


@click.group()
def lab() -> None:
    """Real hosts on this machine, to rehearse on.

    Each is a network namespace with its own sshd, its own keys and its own container engine.
    """


LAB_NAME = click.option(
    "--name", default="lab", show_default=True, help="The lab's name; nodes are NAME-01, ..."
)


@lab.command(name="up")
@click.option("--nodes", default=2, show_default=True, type=click.IntRange(1, 64), help="How many hosts.")
@click.option(
    "--gpus", default=1, show_default=True, type=click.IntRange(1, 8), help="GPUs that each pretends."
)
@click.option("-o", "--output", default="lab.yaml", show_default=True, type=click.Path(path_type=Path))
@click.option(
    "--python", type=click.Path(path_type=Path), help="A virtual environment with vLLM and Ray; this one."
)
@click.option(
    "--model", type=click.Path(path_type=Path), help="The folder of a model; by default the small one."
)
@click.option(
    "--mount", "mounts", multiple=True, metavar="SOURCE:TARGET", help="Shown read-only to all hosts."
)
@click.option("--no-engine", is_flag=True, help="Hosts with sshd alone.")
@LAB_NAME
def lab_up(
    nodes: int,
    gpus: int,
    output: Path,
    python: Path | None,
    model: Path | None,
    mounts: tuple[str, ...],
    no_engine: bool,
    name: str,
) -> int:
    """Make the hosts and write the inventory that reaches them."""
    from cluster.commands.lab import lab_up
    from cluster.lab.spec import LabSpec

    spec = LabSpec(name, nodes, gpus, engine=not no_engine, python=python, model=model, mounts=mounts)
    return lab_up(spec, output)


@lab.command(name="model")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The folder; by default one in ~/.cache."
)
def lab_model(output: Path | None) -> int:
    """Prepare the small model that a lab and inventory/local.yaml serve."""
    from cluster.commands.lab import lab_model

    return lab_model(output)


@lab.command(name="down")
@LAB_NAME
def lab_down(name: str) -> int:
    """Take the hosts down; nothing of them is left."""
    from cluster.commands.lab import lab_down

    return lab_down(name)


@lab.command(name="fault")
@click.argument("node")
@click.argument("kind", required=False, type=click.Choice(FAULTS), metavar="[KIND]")
@click.argument("value", required=False, default="")
@click.option(
    "--from", "apart_from", multiple=True, metavar="NODE", help="partition: from it alone, or operator."
)
@click.option("--clear", is_flag=True, help="Take the fault off again; without KIND all of them.")
@LAB_NAME
def lab_fault(
    node: str, kind: str | None, value: str, apart_from: tuple[str, ...], clear: bool, name: str
) -> int:
    """Break something of a host on purpose.

    \b
    KIND [VALUE]
      link-down              no carrier: connections hang
      partition              from all other nodes, or from those of --from
      latency 100ms          on top of each round trip
      loss 10%               of the frames, in each direction
      bandwidth 100mbit      and no more, in each direction
      kill WHAT              SIGKILL to sshd, engine, or a container of that name
      freeze WHAT            SIGSTOP to them
      fill-disk [FOLDER]     no byte is left in it; by default the home folder
      skew-clock +300s       what date(1) says
      reboot                 every process gone, another boot id, the disk as it was
      power-off              until it is cleared
    """
    from cluster.commands.lab import lab_fault

    return lab_fault(name, node, kind, value, apart_from, clear)


@lab.command(name="status")
@LAB_NAME
@JSON
def lab_status(name: str, as_json: bool) -> int:
    """Show every host: its address, sshd, engine and containers."""
    from cluster.commands.lab import lab_status

    return lab_status(name, as_json)
