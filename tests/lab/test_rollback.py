"""A changed inventory on real hosts: only vLLM is restarted, and what does not serve is rolled back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.lab import host
from cluster.lab.spec import Host, Lab
from tests.lab.test_serving import ask
from tests.reallab import clusterctl, docker, reason_to_skip, running_lab, write_inventory

SKIP = reason_to_skip(engine=True, serves=True)
pytestmark = pytest.mark.skipif(bool(SKIP), reason=SKIP or "never")

LONGEST = 600.0  # seconds of an `up`; some 60 where the machine has nothing else to do
RAY = "{{.Id}} {{.State.StartedAt}}"


def with_flag(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["serve"]["args"][key] = value

    return change


def rays(lab: Lab) -> list[str]:
    """Which Ray containers run, and since when."""
    return [docker(target, "inspect", "--format", RAY, f"clusterctl-{lab.name}-ray") for target in lab.hosts]


def kept(lab: Lab, target: Host, path: str) -> str:
    """What a host has kept beside the lock; `path` may be a pattern."""
    folder = f"/root/.local/state/clusterctl/{lab.name}/{target.name}"
    return host.run(target, "sh", "-c", f"cat {folder}/{path}").stdout


def history(file: Path) -> dict[int, str]:
    done = clusterctl("history", file, "--json")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {one["generation"]: one["state"] for one in found}


def diff(file: Path) -> tuple[int, dict[str, Any]]:
    done = clusterctl("diff", file, "--json")
    return done.returncode, json.loads(done.stdout)


def test_a_change_restarts_vllm_alone_and_a_broken_flag_is_rolled_back(tmp_path: Path) -> None:
    with running_lab("g", nodes=2) as lab:
        good = write_inventory(lab, tmp_path / "good.yaml")
        bring_up(good, 1)
        assert (diff(good)[0], history(good)) == (0, {1: "serving"})
        started = rays(lab)

        longer = write_inventory(lab, tmp_path / "longer.yaml", with_flag("max_model_len", 768))
        code, found = diff(longer)
        assert (code, found["restarts"], found["drift"]) == (2, ["vLLM"], [])
        events = bring_up(longer, 2)
        (said,) = (event for event in events if event["event"] == "difference")
        assert said["changes"] == [{"key": "serve.args.max_model_len", "before": 1024, "after": 768}]
        assert rays(lab) == started
        assert "Paris" in ask(lab)

        a_broken_flag_is_rolled_back(lab, tmp_path, longer)
        assert rays(lab) == started
        drift_is_seen(lab, longer)
        assert clusterctl("down", "--yes", longer).returncode == 0


def bring_up(file: Path, generation: int) -> list[dict[str, Any]]:
    """`up`, which has to end well; where it does not, what was kept of it is told."""
    done = clusterctl("up", file, "--json", timeout=LONGEST)
    if done.returncode != 0:
        print(clusterctl("logs", "--generation", str(generation), file).stdout[-20000:])
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def a_broken_flag_is_rolled_back(lab: Lab, folder: Path, good: Path) -> None:
    broken = write_inventory(lab, folder / "broken.yaml", with_flag("no_such_flag", 1))
    done = clusterctl("up", broken, "--json", timeout=LONGEST)
    assert done.returncode == 7
    assert "Generation 2 was put back and answers; no generation answered for" in done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert (events[-1]["event"], events[-1]["generation"]) == ("rolled_back", 2)
    print(f"no generation answered for {events[-1]['unavailable_seconds']} s")
    assert "Paris" in ask(lab)
    assert history(good) == {1: "superseded", 2: "serving", 3: "failed"}
    assert [kept(lab, target, "current") for target in lab.hosts] == ["2\n", "2\n"]
    assert diff(good)[0] == 0

    logs = clusterctl("logs", "--generation", "3", broken)
    assert logs.returncode == 0, logs.stderr
    assert "no-such-flag" in logs.stdout
    state = kept(lab, lab.hosts[0], "generations/3/evidence/*/state.log")
    assert f"clusterctl-{lab.name}-serve exited" in state


def drift_is_seen(lab: Lab, file: Path) -> None:
    """A server that somebody restarted by hand, and a worker's container that was killed."""
    head, worker = lab.hosts
    docker(worker, "kill", f"clusterctl-{lab.name}-ray")
    docker(head, "restart", "-t", "1", f"clusterctl-{lab.name}-serve")
    code, found = diff(file)
    kinds = {(one["node"], one["kind"]) for one in found["drift"]}
    assert (code, kinds) == (2, {(head.name, "restarted"), (worker.name, "exited")})
