"""Options in, one call out, exit code out. Commands are imported when they run: `--help` has to be quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from cluster import __version__
from cluster.cli_doctor import doctor
from cluster.cli_drill import drill
from cluster.cli_fit import fit
from cluster.cli_generations import diff, history, rollback
from cluster.cli_heal import heal, quarantine, restart
from cluster.cli_lab import lab
from cluster.cli_lock import lock
from cluster.cli_nccl import nccl
from cluster.cli_options import IGNORE, INVENTORY, JSON, NODE
from cluster.cli_verify import verify
from cluster.cli_watch import watch
from cluster.errors import EXIT_BUG, EXIT_DONE, EXIT_USAGE, ClusterctlError, Interrupted

EXIT_CODES = """\b
Exit codes:
  0    done; status: serving
  1    the answer is no: not serving, it does not fit, a command failed, a failure was found
  2    usage; diff: something differs
  3    the inventory is wrong: nothing was contacted
  4    a node could not be reached: nothing was changed
  5    every node answered, one cannot do the job: nothing was changed
  6    another operator is at work: nothing was changed
  7    a phase failed: the cluster may be partly changed
  70   a bug
  130  interrupted"""


@click.group(
    epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="clusterctl")
def cli() -> None:
    """Bring up one large language model over several GPU nodes with vLLM and Ray, over SSH."""


@cli.command()
@INVENTORY
@click.option(
    "--dry-run", is_flag=True, help="Print the steps that would be carried out, and carry out none."
)
@click.option(
    "--no-rollback", is_flag=True, help="Where it fails, leave it so; do not put back what served before."
)
@IGNORE
@JSON
def up(inventory: Path, dry_run: bool, no_rollback: bool, ignore: tuple[str, ...], as_json: bool) -> int:
    """Start Ray and vLLM; done when the model answered.

    What is already so stays as it is: a second up has nothing to do, and after a failure it continues. With a
    changed inventory it says what differs and replaces only that; if the model then does not answer, what
    served before is put back.
    """
    from cluster.commands.up import up

    return up(inventory, dry_run, ignore, not no_rollback, as_json)


@cli.command()
@INVENTORY
@click.option("--quick", is_flag=True, help="Without measuring the network and reading the model's files.")
@IGNORE
@JSON
def check(inventory: Path, quick: bool, ignore: tuple[str, ...], as_json: bool) -> int:
    """Say what would stop `up`, and change nothing.

    Facts of all nodes, what differs between them, and the network from every node to every other.
    """
    from cluster.commands.check import check

    return check(inventory, quick, ignore, as_json)


@cli.command()
@INVENTORY
@JSON
def status(inventory: Path, as_json: bool) -> int:
    """Say what is there, and what is missing where.

    Exit code 0 only if the model serves.
    """
    from cluster.commands.status import status

    return status(inventory, as_json)


@cli.command()
@INVENTORY
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--purge", is_flag=True, help="Forget the history, the audit and the lock's epoch too.")
@JSON
def down(inventory: Path, yes: bool, purge: bool, as_json: bool) -> int:
    """Stop and remove all that `up` made, and nothing else."""
    from cluster.commands.down import down

    return down(inventory, yes, purge, as_json)


@cli.command()
@INVENTORY
@JSON
def audit(inventory: Path, as_json: bool) -> int:
    """Show who changed this cluster, when, and how it ended."""
    from cluster.commands.audit import audit

    return audit(inventory, as_json)


@cli.command()
@INVENTORY
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come, until Ctrl-C.")
@NODE
@click.option("--since", metavar="TIME", help="Since 90s, 10m, 2h, 1d ago or since 2026-11-21T05:24:26Z.")
@click.option("--generation", type=int, metavar="N", help="What was kept when generation N failed.")
@JSON
def logs(
    inventory: Path,
    follow: bool,
    nodes: tuple[str, ...],
    since: str | None,
    generation: int | None,
    as_json: bool,
) -> int:
    """Print Ray's and vLLM's logs of all nodes, in time order."""
    from cluster.commands.logs import kept_logs, logs

    if generation is not None:
        return kept_logs(inventory, generation, nodes, follow or since is not None, as_json)
    return logs(inventory, follow, nodes, since, as_json)


@cli.command(name="exec", context_settings={"ignore_unknown_options": True})
@INVENTORY
@NODE
@JSON
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(inventory: Path, nodes: tuple[str, ...], as_json: bool, command: tuple[str, ...]) -> int:
    """Run a command in the containers of all nodes.

    All at once, each node's output behind its name: clusterctl exec INVENTORY -- ray status
    """
    from cluster.commands.exec import execute

    return execute(inventory, command, nodes, as_json)


@cli.command()
@INVENTORY
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The folder to write to."
)
def render(inventory: Path, output: Path) -> int:
    """Write what each node would get, without contacting any."""
    from cluster.commands.render import render

    return render(inventory, output)


@cli.group()
def inventory() -> None:
    """Inventories: their schema, and what is wrong with one."""


@inventory.command()
def schema() -> int:
    """Print a JSON Schema of inventories, for editors."""
    from cluster.commands.inventory import schema

    return schema()


@inventory.command(name="check")
@INVENTORY
def check_inventory(inventory: Path) -> int:
    """Read an inventory and say what it means, or what is wrong with it."""
    from cluster.commands.inventory import check

    return check(inventory)


for command in (
    heal,
    restart,
    quarantine,
    fit,
    doctor,
    drill,
    diff,
    history,
    rollback,
    lab,
    lock,
    nccl,
    verify,
    watch,
):
    cli.add_command(command)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of a command line; every error ends here."""
    try:
        return int(cli.main(args=argv, prog_name="clusterctl", standalone_mode=False) or EXIT_DONE)
    except click.exceptions.Abort:
        return _interrupted()
    except KeyboardInterrupt:
        return _interrupted()
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except ClusterctlError as error:
        return _complain(error)
    except BrokenPipeError:
        # The reader (head, less) has seen enough; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except Exception:
        return _bug()


def _interrupted() -> int:
    return _complain(Interrupted("interrupted"))


def _complain(error: ClusterctlError) -> int:
    from cluster.console import complain

    complain(str(error))
    return error.exit_code


def _bug() -> int:
    import traceback

    traceback.print_exc()
    click.echo("error: this is a bug in clusterctl; please report it with the lines above", err=True)
    return EXIT_BUG


def run() -> None:
    """The console script. After Ctrl-C it does not wait for threads that talk to a silent node."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if code == Interrupted.exit_code:
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
