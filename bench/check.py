"""How long `clusterctl check` takes for 2 and for 16 nodes, side by side; as root, on a quiet machine.

    python bench/check.py [RUNS]

Real hosts, real sshd, the real measurement of the network; the container engine is a stub that answers at
once, because sixteen real ones share this machine's CPUs and would be what is measured. Then two hosts with
their real engines, whose probe looks into a real image and reads a real model.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from cluster.lab import host, lifecycle
from cluster.lab.lab_inventory import inventory_text
from cluster.lab.spec import Host, Lab, LabSpec

STUB = """\
#!/bin/sh
case "$1 $*" in
  version*) echo 20.10.24 ;;
  info*DockerRootDir*) echo /var/lib ;;
  info*) echo '{"Driver": "overlay2", "DockerRootDir": "/var/lib", "Runtimes": {"runc": {}}}' ;;
  image*.Id*) echo sha256:%(image)s ;;
  image*) echo '[{"Env": []}, ["sha256:%(image)s"]]' ;;
  run*) echo '{"python": "3.12.3", "ray": "2.60.0", "vllm": "0.33.0"}' ;;
  ps*) ;;
  *) exit 1 ;;
esac
"""


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with (
        TemporaryDirectory() as folder,
        lab("b2s", 2) as two,
        lab("b16", 16) as sixteen,
        lab("b2", 2, True) as real,
    ):
        files = {
            "2 nodes, engine stubbed": inventory(two, Path(folder) / "2.yaml"),
            "16 nodes, engine stubbed": inventory(sixteen, Path(folder) / "16.yaml"),
            "2 nodes, real engines": inventory(real, Path(folder) / "real.yaml"),
        }
        seconds = {title: [] for title in files}
        for file in files.values():
            check(file)  # once to warm the caches
        for _ in range(runs):
            for title, file in files.items():
                seconds[title].append(check(file))
    medians = {title: statistics.median(times) for title, times in seconds.items()}
    for title, median in medians.items():
        print(
            f"{title:26} {median:6.2f} s   (least {min(seconds[title]):.2f}, most {max(seconds[title]):.2f})"
        )
    few, many, _ = medians.values()
    print(f"16 nodes take {many / few:.2f} times as long as 2")


@contextmanager
def lab(name: str, nodes: int, engine: bool = False) -> Iterator[Lab]:
    made = lifecycle.up(LabSpec(name, nodes, engine=engine))
    try:
        for one in () if engine else made.hosts:
            stub(one)
        yield made
    finally:
        with suppress(OSError):
            lifecycle.down(name)


def stub(target: Host) -> None:
    """In the place of the engine's client, in this host alone."""
    make = 'printf %s "$0" >/tmp/docker && chmod 755 /tmp/docker'
    write = f'{make} && mount --bind /tmp/docker "$(command -v docker)"'
    done = host.run(target, "sh", "-c", write, STUB % {"image": "a" * 64})
    assert done.returncode == 0, done.stderr


def inventory(made: Lab, file: Path) -> Path:
    content = yaml.safe_load(inventory_text(made))
    if not made.engine:
        content["runtime"] = {"engine": "docker", "device": "cpu", "image": "stub:1"}
    file.write_text(yaml.safe_dump(content))
    return file


def check(file: Path) -> float:
    """Seconds; the check has to find nothing."""
    started = time.monotonic()
    argv = (sys.executable, "-m", "cluster.cli", "check", str(file), "--json")
    done = subprocess.run(argv, capture_output=True, text=True, cwd=Path(__file__).parents[1], env=os.environ)
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["problems"] == [], json.loads(done.stdout)["problems"]
    return seconds


if __name__ == "__main__":
    main()
