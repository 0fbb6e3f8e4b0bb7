"""Provoke failures on real hosts and keep their logs: the corpus that `clusterctl doctor` is judged by.

    .venv/bin/python -m tests.lab.provoke -o DIR [NAME...]

Each case becomes DIR/NAME with one log per node and program, and label.yaml. It needs what a lab needs:
Linux, root, the Debian packages, the small model.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path

import yaml

from cluster.lab import lifecycle
from cluster.lab.spec import LabSpec
from tests.corpus.split import held_out
from tests.lab import provoke_docker, provoke_network, provoke_ray, provoke_ssh, provoke_vllm
from tests.lab.cases import CASES, Case
from tests.lab.stage import Stage

MODULES = (provoke_ssh, provoke_docker, provoke_ray, provoke_vllm, provoke_network)


def main() -> int:
    parser = argparse.ArgumentParser(description="Provoke failures on a lab and keep their logs.")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--lab", default="corpus", help="the lab's name; default: corpus")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*CASES, []])
    arguments = parser.parse_args()
    stage = Stage(lifecycle.up(LabSpec(arguments.lab, nodes=2)), arguments.output)
    try:
        failed = [
            name for name in arguments.names or CASES if not capture(stage, CASES[name], arguments.output)
        ]
    finally:
        lifecycle.down(arguments.lab)
    return 1 if failed else 0


def capture(stage: Stage, case: Case, output: Path) -> bool:
    """One case after the other; one that cannot be provoked here leaves no folder."""
    began = time.monotonic()
    stage.begin(output / case.name)
    try:
        if case.needs_ray:
            stage.have_ray()
        else:
            stage.clear()
        case.provoke(stage)
        stage.finish()
        write_label(case, stage)
    except Exception:
        traceback.print_exc()
        stage.drop()
        stage.clear()
        return False
    if not case.keeps_ray:
        stage.clear()
    print(f"{time.monotonic() - began:6.1f} s  {case.name}", flush=True)
    return True


def write_label(case: Case, stage: Stage) -> None:
    label = {
        "of": case.of,
        "provenance": "lab",
        "cause": case.cause,
        "node": case.node and stage.lab.hosts[case.node - 1].name,
        "acceptable": list(case.acceptable),
        "held_out": held_out(case.name),
    }
    (stage.folder / "label.yaml").write_text(yaml.safe_dump(label, sort_keys=False, width=110))


if __name__ == "__main__":
    sys.exit(main())
