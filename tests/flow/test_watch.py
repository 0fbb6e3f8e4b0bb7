"""`clusterctl watch`: one judgement, many, lines that break, healing, and the unit on the head."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeFleet, Outcome
from samples import GOOD

from cluster import console
from cluster.commands.heal import Healed
from cluster.errors import ConnectionLost, PhaseError
from cluster.liveness import Liveness
from cluster.steps import Argv, Result

Clusterctl = Callable[..., Outcome]
QUICK = f"{GOOD}watch: {{interval: 0.02, wedged_after: 2}}\n"
LOADING = Result(0, '{"health": null, "metrics": null, "reason": "Connection refused"}\n', "")
IS_ASKED = "--ask"
MOST_LOOKS = 1500  # 30 s


def scrape(tokens: int, running: int = 0, health: int = 200) -> Result:
    metrics = f"vllm:generation_tokens_total {tokens}.0\nvllm:num_requests_running {running}.0\n"
    return Result(0, json.dumps({"health": health, "metrics": metrics, "reason": ""}) + "\n", "")


@pytest.fixture
def serving(fleet: FakeFleet, clusterctl: Clusterctl) -> FakeFleet:
    """Two nodes on which `up` was, whose model answers with one token."""
    fleet.write(QUICK)
    assert clusterctl("up").code == 0
    fleet.facts = {"gpu-01": {"scrape": scrape(7)}}
    answers(fleet, Result(0, '{"status": 200, "seconds": 0.1, "reason": ""}\n', ""))
    return fleet


def answers(fleet: FakeFleet, answer: Result) -> None:
    fleet.nodes["gpu-01"].special = lambda argv: answer if IS_ASKED in argv else None


class Watched:
    """What `watch --json` says; `at[N]` is done after the N-th look. Ctrl-C ends it where it is enough."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        at: dict[int, Callable[[], object]],
        enough: Callable[[Watched], bool],
    ) -> None:
        self.looks: list[dict[str, Any]] = []
        self.others: list[dict[str, Any]] = []

        def emit(content: dict[str, Any]) -> None:
            if content["event"] != "liveness":
                self.others.append(content)
                return
            self.looks.append(content)
            at.get(len(self.looks), lambda: None)()
            if enough(self) or len(self.looks) > MOST_LOOKS:
                raise KeyboardInterrupt

        monkeypatch.setattr(console, "emit", emit)

    @property
    def states(self) -> list[str]:
        """In order, each once in a row."""
        found = [look["state"] for look in self.looks]
        return [state for before, state in zip(["", *found], found, strict=False) if state != before]


# --- one judgement --------------------------------------------------------------------------------------


def test_once_asks_for_a_token_and_says_that_it_serves(serving: FakeFleet, clusterctl: Clusterctl) -> None:
    outcome = clusterctl("watch", "--once", "--json")
    (found,) = outcome.events
    assert (outcome.code, found["state"], found["serves"], found["nodes"]) == (0, "idle", True, {})
    (step,) = (step for step in serving.nodes["gpu-01"].steps if IS_ASKED in step)
    assert "docker exec clusterctl-demo-serve sh /clusterctl/enter.sh python3" in step
    assert "observe.py http://10.0.0.11:8000 --ask llama --wait 2.06" in step
    assert step.split()[1] == "timeout"


def test_once_of_a_server_that_works_asks_for_nothing_more(
    serving: FakeFleet, clusterctl: Clusterctl
) -> None:
    tokens = iter(range(100))

    class Working(dict[str, dict[str, Result]]):
        def get(self, node: str, _: Any = None) -> Any:  # type: ignore[override]
            return {"scrape": scrape(next(tokens), running=2)} if node == "gpu-01" else {}

    serving.facts = Working()
    outcome = clusterctl("watch", "--once")
    assert outcome.code == 0
    assert " busy " in outcome.out


def test_once_says_what_does_not_serve(serving: FakeFleet, clusterctl: Clusterctl) -> None:
    answers(serving, Result(0, '{"status": null, "seconds": 2.0, "reason": "timed out"}\n', ""))
    outcome = clusterctl("watch", "--once", "--json")
    assert (outcome.code, outcome.events[0]["state"]) == (1, "wedged")

    worker = serving.nodes["gpu-02"]
    worker.containers["ray-gpu-02"]["State"] |= {"Running": False, "ExitCode": 137}
    outcome = clusterctl("watch", "--once")
    assert outcome.code == 1
    assert "dead" in outcome.out
    assert outcome.lines[-1] == "! gpu-02: the ray container exited with code 137"


def test_once_of_nothing_and_of_a_node_that_is_gone(fleet: FakeFleet, clusterctl: Clusterctl) -> None:
    fleet.write(QUICK)
    outcome = clusterctl("watch", "--once", "--json")
    assert (outcome.code, outcome.events[0]["state"]) == (1, "down")
    fleet.nodes["gpu-01"].unreachable = "10.0.0.11:22: no route to host"
    outcome = clusterctl("watch", "--once", "--json")
    found = outcome.events[0]
    assert (outcome.code, found["state"]) == (1, "unreachable")
    assert found["nodes"] == {"gpu-01": "10.0.0.11:22: no route to host"}


def test_a_cluster_of_an_older_version_is_not_judged_by_what_was_not_asked(
    serving: FakeFleet, clusterctl: Clusterctl
) -> None:
    missing = "python3: can't open file '/clusterctl/on_node/observe.py'"
    serving.facts = {"gpu-01": {"scrape": Result(2, missing, "")}}
    outcome = clusterctl("watch", "--once", "--json")
    assert outcome.events[0]["state"] == "starting"
    assert missing in outcome.events[0]["why"]


# --- look after look ------------------------------------------------------------------------------------


def test_a_line_that_breaks_is_opened_again(
    serving: FakeFleet, clusterctl: Clusterctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = serving.nodes["gpu-01"]
    works = head.run

    def cut() -> None:
        def run(*_: Any, **__: Any) -> Result:
            raise ConnectionLost("the connection broke")

        head.run, head.unreachable = run, "no route to host"  # type: ignore[method-assign]

    def mend() -> None:
        head.run, head.unreachable = works, ""  # type: ignore[method-assign]

    watched = Watched(
        monkeypatch, {5: cut, 15: mend}, lambda it: it.states == ["idle", "unreachable", "idle"]
    )
    outcome = clusterctl("watch", "--json")
    assert outcome.code == 130
    assert watched.states == ["idle", "unreachable", "idle"]
    reasons = {look["nodes"].get("gpu-01") for look in watched.looks if look["state"] == "unreachable"}
    assert reasons == {"the connection broke", "no route to host"}


def test_a_worker_without_a_line_is_told_while_the_model_serves(
    serving: FakeFleet, clusterctl: Clusterctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving.nodes["gpu-02"].unreachable = "no route to host"
    watched = Watched(monkeypatch, {}, lambda it: len(it.looks) == 5)
    clusterctl("watch", "--json")
    assert watched.states == ["idle"]
    assert watched.looks[-1]["nodes"] == {"gpu-02": "no route to host"}


def test_a_person_is_told_what_changes(
    serving: FakeFleet, clusterctl: Clusterctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter(range(12))
    real = threading.Event.wait

    def wait(self: threading.Event, timeout: float | None = None) -> bool:
        if timeout is not None and timeout <= 0.02:
            number = next(looks)
            if number == 5:
                serving.nodes["gpu-02"].containers["ray-gpu-02"]["State"]["Running"] = False
            if number == 10:
                raise KeyboardInterrupt
        return real(self, timeout)

    monkeypatch.setattr(threading.Event, "wait", wait)
    outcome = clusterctl("watch")
    assert [line.split("  ")[1].strip() for line in outcome.lines] == ["idle", "dead"]


# --- healing --------------------------------------------------------------------------------------------


class Heals:
    """In the place of `heal_watched`: fails once, waits once, then heals."""

    def __init__(self, fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fleet, self.causes = fleet, list[Liveness]()
        monkeypatch.setattr("cluster.commands.heal.heal_watched", self)

    def __call__(self, _: Path, __: bool, why: Liveness) -> Healed:
        self.causes.append(why)
        if len(self.causes) == 1:
            raise PhaseError("Heal", {"gpu-02": "no spare"}, 2, "Add one.")
        if len(self.causes) == 2:
            return Healed("waiting", "the next restart is due in 0 s", 0.05)
        self.fleet.nodes["gpu-02"].containers["ray-gpu-02"]["State"] |= {"Running": True}
        return Healed("healed", "it was dead", serves=True)


def test_what_is_dead_is_healed_and_a_failure_ends_nothing(
    serving: FakeFleet, clusterctl: Clusterctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving.write(f"{QUICK}heal: {{backoff: 0.1}}\n")
    heals = Heals(serving, monkeypatch)

    def kill() -> None:
        state = {"Running": False, "ExitCode": 137}
        serving.nodes["gpu-02"].containers["ray-gpu-02"]["State"] |= state

    watched = Watched(monkeypatch, {3: kill}, lambda it: it.states == ["idle", "dead", "idle"])
    assert clusterctl("watch", "--heal", "--json").code == 130
    assert watched.states == ["idle", "dead", "idle"]
    assert {cause.state for cause in heals.causes} == {"dead"}
    assert [event["state"] for event in watched.others] == ["failed", "waiting", "healed"]
    assert watched.others[0]["exit_code"] == 7
    assert len([look for look in watched.looks if look["state"] == "dead"]) >= 4  # it waited between them


def test_without_heal_and_for_what_is_down_nothing_is_healed(
    serving: FakeFleet, clusterctl: Clusterctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    heals = Heals(serving, monkeypatch)
    for node in serving.nodes.values():
        node.containers.clear()
        node.kept.clear()
    Watched(monkeypatch, {}, lambda it: len(it.looks) == 5)
    clusterctl("watch", "--heal", "--json")
    assert heals.causes == []


# --- the unit on the head -------------------------------------------------------------------------------

HEAD = {"user": "0", "home": "/root", "program": "/usr/local/bin/clusterctl", "systemd": "yes", "lingers": ""}


def head_has(fleet: FakeFleet, status: Result | None = None, **changes: str) -> list[Argv]:
    """The head answers what `--install` asks; the commands that it was given."""
    heard: list[Argv] = []
    said = "".join(f"clusterctl {key} {value}\n" for key, value in (HEAD | changes).items() if value)

    def special(argv: Argv) -> Result | None:
        heard.append(argv)
        if argv[:2] == ("sh", "-lc"):
            return (status or Result(0, "", "")) if "mktemp" in argv[2] else Result(0, said, "")
        return None

    fleet.nodes["gpu-01"].special = special
    return heard


def test_install_writes_the_inventory_and_a_unit(fleet: FakeFleet, clusterctl: Clusterctl) -> None:
    heard = head_has(fleet)
    outcome = clusterctl("watch", "--install", "--heal", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.events[-1] == {
        "event": "watching",
        "node": "gpu-01",
        "unit": "clusterctl-watch-demo.service",
    }
    kept = fleet.nodes["gpu-01"].kept
    assert kept["watch.yaml"] == fleet.file.read_text()
    start = next(line for line in kept["watch.service"].splitlines() if line.startswith("ExecStart="))
    folder = "/root/.local/state/clusterctl/demo/gpu-01"
    words = ("/usr/local/bin/clusterctl", "watch", "--heal", "--json", f"{folder}/watch.yaml")
    assert start == "ExecStart=" + " ".join(f'"{word}"' for word in words)
    assert any("status" in argv[2] for argv in heard if argv[:2] == ("sh", "-lc"))
    assert "watch.yaml" not in fleet.nodes["gpu-02"].kept


def test_install_says_what_the_head_lacks(
    fleet: FakeFleet, clusterctl: Clusterctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    fleet.write(f"{GOOD}secrets: {{HF_TOKEN: {{env: HF_TOKEN}}}}\n")
    head_has(fleet, user="1000", home="/home/ops", program="", systemd="")
    outcome = clusterctl("watch", "--install", "--heal")
    assert outcome.code == 5
    for id_ in ("watch-systemd", "watch-clusterctl", "watch-linger", "watch-secret"):
        assert f"[{id_}]" in outcome.err
    assert fleet.nodes["gpu-01"].kept == {}

    fleet.write(GOOD)
    head_has(fleet, status=Result(4, "", "1 of 2 nodes could not be reached\n  gpu-02  Permission denied\n"))
    outcome = clusterctl("watch", "--install")
    assert outcome.code == 5
    assert "[watch-lines]" in outcome.err
    assert "gpu-02  Permission denied" in outcome.err


def test_uninstall_stops_it_and_removes_the_files(fleet: FakeFleet, clusterctl: Clusterctl) -> None:
    head_has(fleet)
    assert clusterctl("watch", "--uninstall", "--json").events[-1]["event"] == "not_watching"


def test_a_watcher_on_the_head_is_not_forgotten(fleet: FakeFleet, clusterctl: Clusterctl) -> None:
    head_has(fleet)
    assert clusterctl("watch", "--install", "--heal").code == 0
    outcome = clusterctl("down", "--yes", "--purge")
    assert outcome.code == 2
    assert "gpu-01 watches this cluster by itself; nothing was changed" in outcome.err
    assert "watch --uninstall" in outcome.err


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("user", ["0", "1000"])
def test_the_unit_is_one_to_systemd(
    fleet: FakeFleet, clusterctl: Clusterctl, tmp_path: Path, user: str
) -> None:
    # The program has to be there, and a path may have anything in it.
    home = tmp_path / "50% of $HOME"
    program = shutil.which("true")
    assert program
    head_has(fleet, user=user, lingers="yes", home=str(home), program=program)
    assert clusterctl("watch", "--install", "--heal").code == 0
    unit = tmp_path / "clusterctl-watch-demo.service"
    unit.write_text(fleet.nodes["gpu-01"].kept["watch.service"])
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, complaints) == (0, [])
    assert "50%% of $$HOME" in unit.read_text()


@pytest.mark.parametrize(
    "options", [("--once", "--heal"), ("--install", "--uninstall"), ("--once", "--install")]
)
def test_options_that_exclude_each_other(clusterctl: Clusterctl, options: tuple[str, ...]) -> None:
    assert clusterctl("watch", *options).code == 2
