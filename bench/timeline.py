"""Where the time of an `up` goes: each phase, and what of it is clusterctl's own.

    python bench/timeline.py INVENTORY

Runs `clusterctl up INVENTORY --json` and lays its events out. "own" is the part of a phase in which no node
was at work for clusterctl, or was waited for.
"""

from __future__ import annotations

import json
import subprocess
import sys


def main(inventory: str) -> int:
    argv = (sys.executable, "-m", "cluster.cli", "up", inventory, "--json")
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    print(f"{'phase':<36} {'seconds':>8} {'own':>7}")
    for line in done.stdout.splitlines():
        event = json.loads(line)
        if event["event"] == "phase_done":
            print(f"{event['phase']:<36} {event['seconds']:>8.2f} {event['own_seconds']:>7.3f}")
        if event["event"] == "serving":
            print(f"{'connect, facts, plan':<36} {event['connect_seconds']:>8.2f}")
            print(f"{'all':<36} {event['seconds']:>8.2f} {event['own_seconds']:>7.3f}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
