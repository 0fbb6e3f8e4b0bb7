"""What the command line itself costs: start-up of `clusterctl`, beside an interpreter that imports click.

    python bench/startup.py [RUNS]

The commands take turns within each round, so that whatever else the machine does hits all alike. Printed
are the median over all rounds in milliseconds, and the ratio of the medians to the first line's.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXAMPLE = str(ROOT / "examples/llama-70b-2x8.yaml")
CLI = (sys.executable, "-m", "cluster.cli")
COMMANDS = {
    'python -c "import click"': (sys.executable, "-c", "import click"),
    "clusterctl --help": (*CLI, "--help"),
    "clusterctl inventory check": (*CLI, "inventory", "check", EXAMPLE),
    "clusterctl render": (*CLI, "render", EXAMPLE, "-o", "/dev/null/nowhere"),
}


def seconds(argv: tuple[str, ...]) -> float:
    started = time.perf_counter()
    subprocess.run(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - started


def main(runs: int) -> None:
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, argv in COMMANDS.items():
            taken[name].append(seconds(argv))
    base = statistics.median(next(iter(taken.values())))
    print(f"{'command':<30} {'median ms':>9} {'ratio':>6}")
    for name, values in taken.items():
        median = statistics.median(values)
        print(f"{name:<30} {median * 1000:>9.0f} {median / base:>6.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 21)
