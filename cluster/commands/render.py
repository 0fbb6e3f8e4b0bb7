"""`clusterctl render`: what each node would get, without contacting any."""

from __future__ import annotations

from pathlib import Path

from cluster import console
from cluster.errors import EXIT_DONE, ClusterctlError, count
from cluster.inventory import load
from cluster.plan import make_plan
from cluster.render import node_files


class RenderError(ClusterctlError):
    """The output folder cannot be written."""

    exit_code = 2


def render(file: Path, output: Path) -> int:
    """Write DIR/NODE/... for every node. Raises InventoryError, RenderError."""
    plan = make_plan(load(file))
    written = 0
    try:
        for member in plan.members:
            for rendered in node_files(plan, member):
                target = output / member.name / rendered.path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(rendered.content)
                target.chmod(rendered.mode)
                written += 1
    except OSError as error:
        raise RenderError(f"cannot write {error.filename}: {error.strerror}") from error
    console.say(f"wrote {count(written, 'file')} for {count(len(plan.members), 'node')} to {output}")
    console.say(f"On {plan.head.name}: sh run_cluster.sh (without arguments it says what it can do)")
    return EXIT_DONE
