"""`clusterctl up`: what it does, what it says, and the exit code that says what was touched."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable

import pytest
from fakes import FakeFleet, Outcome
from samples import GOOD

from cluster.errors import CommandTimeout
from cluster.steps import Argv, Result

Clusterctl = Callable[..., Outcome]


def test_fresh(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    outcome = clusterctl("up")
    assert (outcome.code, outcome.err) == (0, "")
    assert [line for line in outcome.lines if line.startswith("[")] == [
        "[1/9] Write start scripts (gpu-01, gpu-02)",
        "[2/9] Start Ray head (gpu-01)",
        "[3/9] Start Ray workers (gpu-02)",
        "[4/9] Wait for every node and GPU to join (gpu-02)",
        "[5/9] Read what arrived at Ray (gpu-01, gpu-02)",
        "[6/9] Prove the network (gpu-01, gpu-02)",
        "[7/9] Start vLLM (gpu-01)",
        "[8/9] Wait for a completion (gpu-01)",
        "[9/9] Read what arrived at vLLM (gpu-01, gpu-02)",
    ]
    assert outcome.lines[-2].startswith("llama is serving on http://10.0.0.11:8000/v1 after ")
    assert outcome.lines[-1] == "it answered: Paris."
    assert sorted(fleet.opened) == ["gpu-01", "gpu-02"]


def test_the_second_time_there_is_nothing_to_do(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    clusterctl("up")
    fleet.steps()
    nothing = "nothing to do: llama is serving on http://10.0.0.11:8000/v1\n"
    assert clusterctl("up") == Outcome(0, nothing, "")
    assert clusterctl("up", "--dry-run") == Outcome(0, nothing, "")
    assert clusterctl("up", "--json").events == [{"event": "nothing_to_do", "url": "http://10.0.0.11:8000"}]
    assert fleet.steps() == {"gpu-01": [], "gpu-02": []}


def dry_run(outcome: Outcome) -> dict[str, list[str]]:
    """{node: its steps}, a wait as the command that it asks with."""
    steps = [
        re.sub(r"wait up to \S+ s for: ", "", line.strip())
        for line in outcome.lines
        if line.startswith("   ")
    ]
    return {node: [step for step in steps if step.startswith(node)] for node in ("gpu-01", "gpu-02")}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: text.replace("4096", "8192"),
        lambda text: text.replace("v0.33.0", "v0.34.0"),
        lambda text: text.replace("gpus: 2}\n", "gpus: 2, env: {A: b}}\n", 1),
    ],
    ids=["fresh", "another flag", "another image", "another environment"],
)
def test_a_dry_run_prints_the_very_steps_that_are_then_run(
    clusterctl: Clusterctl, fleet: FakeFleet, change: Callable[[str], str]
) -> None:
    if change(GOOD) != GOOD:
        clusterctl("up")
        fleet.write(change(GOOD))
        fleet.steps()
    printed = dry_run(clusterctl("up", "--dry-run"))
    assert fleet.steps() == {"gpu-01": [], "gpu-02": []}
    assert clusterctl("up").code == 0
    assert fleet.steps() == printed
    assert printed["gpu-01"]


def test_json_is_one_event_a_line(clusterctl: Clusterctl) -> None:
    events = clusterctl("up", "--json").events
    keys = {
        "phase_started": {"event", "phase", "number", "of", "nodes"},
        "phase_done": {"event", "phase", "seconds", "own_seconds"},
        "serving": {"event", "url", "model", "answer", "seconds", "own_seconds", "connect_seconds"},
    }
    for event in events:
        kind = event["event"]
        if kind in keys:
            assert set(event) == keys[kind]
        else:
            assert kind in ("step_started", "step_done", "waiting", "judged")
            assert {"node", "step"} <= set(event) or (kind == "judged" and event["phase"])
    assert [event["event"] for event in events].count("phase_done") == 9
    assert events[-1]["event"] == "serving"
    assert (events[-1]["model"], events[-1]["answer"]) == ("llama", " Paris.")


def test_a_dry_run_in_json(clusterctl: Clusterctl) -> None:
    events = clusterctl("up", "--dry-run", "--json").events
    assert [event["event"] for event in events] == ["phase"] * 9
    assert events[1]["steps"][0] == {
        "node": "gpu-01",
        "step": "run",
        "argv": ["sh", ".clusterctl/demo/gpu-01/run_cluster.sh", "ray"],
        "command": "sh .clusterctl/demo/gpu-01/run_cluster.sh ray",
    }


def test_a_secret_is_written_and_shown_nowhere(
    clusterctl: Clusterctl, fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    fleet.write(GOOD + "secrets: {HF_TOKEN: {env: HF_TOKEN}}\n")
    said = [clusterctl("up", *options) for options in (("--dry-run",), ("--dry-run", "--json"), ("--json",))]
    assert [outcome.code for outcome in said] == [0, 0, 0]
    assert not any("verysecret" in outcome.out + outcome.err for outcome in said)
    for node in fleet.nodes.values():
        assert node.files["secrets.env"].encode() == b"HF_TOKEN=hf_verysecret\n"
        assert "verysecret" not in "".join(node.steps)
    assert clusterctl("up").out.startswith("nothing to do")


def test_a_secret_that_is_no_longer_wanted_leaves_the_nodes(
    clusterctl: Clusterctl, fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    fleet.write(GOOD + "secrets: {HF_TOKEN: {env: HF_TOKEN}}\n")
    clusterctl("up")
    fleet.write(GOOD)
    assert clusterctl("up").code == 0
    assert not any("secrets.env" in node.files for node in fleet.nodes.values())
    assert clusterctl("up").out.startswith("nothing to do")


# --- when it does not work --------------------------------------------------------------------------


def answering(*verb: str, answers: list[Result]) -> Callable[[Argv], Result | None]:
    """A node that answers this verb of run_cluster.sh so, the last answer again and again."""

    def special(argv: Argv) -> Result | None:
        if argv[2 : 2 + len(verb)] != verb:
            return None
        return answers.pop(0) if len(answers) > 1 else answers[0]

    return special


def test_a_docker_run_that_fails(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    said = (
        'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].\n'
    )
    node = fleet.nodes["gpu-02"]
    node.special = answering("ray", answers=[Result(125, "abc\n", said)])
    node.logs["ray"] = "2026-11-21T05:24:26Z last words of Ray\n"
    outcome = clusterctl("up")
    assert outcome.code == 7
    assert outcome.err.splitlines() == [
        "error: Start Ray workers failed on 1 of 2 nodes",
        f"  gpu-02  sh .clusterctl/demo/gpu-02/run_cluster.sh ray exited 125: {said.strip()}",
        "      --- sh .clusterctl/demo/gpu-02/run_cluster.sh logs ray --tail 400",
        "      last words of Ray",
        "  Mend it and run `clusterctl up` again: it continues from here; or `clusterctl down`.",
    ]
    node.special = lambda _: None
    assert clusterctl("up").code == 0


def test_a_worker_that_dies_while_joining(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    gone = "clusterctl-demo-ray is not running: exited, exit code 1, out of memory: false"
    one = '{"nodes": [{"address": "10.0.0.11", "name": "gpu-01", "alive": true, "gpus": 2}]}\n'
    fleet.nodes["gpu-02"].special = answering(
        "nodes", answers=[Result(0, one, ""), Result(3, "", f"{gone}\n")]
    )
    outcome = clusterctl("up")
    assert outcome.code == 7
    assert "      gpu-02: 1 of 2 nodes alive, gpu-02 (10.0.0.12) is missing (0 s)" in outcome.lines
    assert outcome.err.splitlines()[:2] == [
        "error: Wait for every node and GPU to join failed on 1 of 2 nodes",
        f"  gpu-02  {gone}",
    ]
    assert not [step for step in fleet.nodes["gpu-01"].steps if step.endswith("run_cluster.sh serve")]


def test_a_worker_that_never_joins(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.write(GOOD + "ray: {join_timeout: 0.05}\n")
    one = '{"nodes": [{"address": "10.0.0.11", "name": "gpu-01", "alive": true, "gpus": 2}]}\n'
    fleet.nodes["gpu-02"].special = answering("nodes", answers=[Result(0, one, "")])
    outcome = clusterctl("up")
    assert outcome.code == 7
    assert outcome.err.splitlines()[1] == (
        "  gpu-02  gave up after 0.05 s: 1 of 2 nodes alive, gpu-02 (10.0.0.12) is missing"
    )


def test_progress_while_the_model_loads(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    log = "INFO [gpu_worker.py:773] Available KV cache memory: 51.63 GiB\n"
    loading = [Result(1, log, "Connection refused\n"), Result(0, '{"answer": "Paris", "seconds": 1}\n', "")]
    fleet.nodes["gpu-01"].special = answering("ready", answers=loading)
    assert "      gpu-01: weights loaded, 51.63 GiB for the KV cache (0 s)" in clusterctl("up").lines


def test_a_question_that_never_ends_is_asked_again(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    hung = ["ready"]

    def once(argv: Argv) -> Result | None:
        if argv[-1] in hung:
            hung.clear()
            raise CommandTimeout("no end after 120 s: run_cluster.sh ready")
        return None

    fleet.nodes["gpu-01"].special = once
    outcome = clusterctl("up")
    assert outcome.code == 0, outcome.err
    assert "no end after 120 s" in outcome.out


def test_preflight_names_every_problem_and_changes_nothing(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    no_ray = Result(0, '{"python": "3.12.3", "ray": null, "vllm": "0.33.0"}\n', "")
    fleet.facts = {"gpu-01": {"inside": no_ray}, "gpu-02": {"gpus": Result(127, "not found\n", "")}}
    outcome = clusterctl("up")
    assert outcome.code == 5
    lines = outcome.err.splitlines()
    assert lines[0] == "error: 2 problems found before anything was changed"
    assert lines[1] == (
        "  gpu-01  the image registry.local/vllm-ray:v0.33.0 has no ray; "
        "expected: ray beside vllm [image-no-ray]"
    )
    assert lines[3] == (
        "  gpu-02  nvidia-smi shows 0 GPUs: not found; expected: 2, as the inventory says [gpu-count]"
    )
    assert fleet.steps() == {"gpu-01": [], "gpu-02": []}


def test_a_node_that_cannot_be_reached(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.nodes["gpu-02"].unreachable = "no answer from 10.0.0.12:22 within 10 s: is the node up?"
    outcome = clusterctl("up")
    assert outcome.code == 4
    assert outcome.err.splitlines() == [
        "error: 1 of 2 nodes could not be reached; nothing was changed",
        "  gpu-02  no answer from 10.0.0.12:22 within 10 s: is the node up?",
    ]
    assert fleet.steps() == {"gpu-01": [], "gpu-02": []}


@pytest.mark.parametrize(
    "command", [("up",), ("status",), ("down", "--yes"), ("logs",), ("exec", "--", "ls")]
)
def test_a_bad_inventory_contacts_nothing(
    clusterctl: Clusterctl, fleet: FakeFleet, command: tuple[str, ...]
) -> None:
    fleet.file.write_text(GOOD.replace("gpus: 2", "gpus: eight", 1))
    outcome = clusterctl(*command)
    assert outcome == Outcome(
        3, "", f"error: {fleet.file}:7: nodes[0].gpus: expected a whole number, got 'eight'\n"
    )
    assert fleet.opened == []


def test_a_secret_that_is_not_set_contacts_nothing(
    clusterctl: Clusterctl, fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    fleet.write(GOOD + "secrets: {HF_TOKEN: {env: HF_TOKEN}}\n")
    outcome = clusterctl("up")
    assert (outcome.code, fleet.opened) == (3, [])
    assert outcome.err == (
        f"error: {fleet.file}: secrets.HF_TOKEN: the environment variable HF_TOKEN is not set\n"
    )


@pytest.mark.parametrize(
    ("verb", "phase", "started"),
    [
        ("ray", "Start Ray head", "Ray on gpu-01"),
        ("nodes", "Start Ray head", "Ray on gpu-01"),
        ("ready", "Wait for a completion", "Ray on gpu-01, Ray on gpu-02, vLLM on gpu-01"),
    ],
)
def test_ctrl_c(clusterctl: Clusterctl, fleet: FakeFleet, verb: str, phase: str, started: str) -> None:
    """The signal comes to the main thread, as from a terminal, while a node is being asked."""
    main = threading.main_thread().ident
    assert main
    presses = [signal.SIGINT]

    def special(argv: Argv) -> Result | None:
        if argv[2] != verb:
            return None
        if presses:
            signal.pthread_kill(main, presses.pop())
        return Result(1, "", "not yet\n")

    fleet.nodes["gpu-01"].special = special
    outcome = clusterctl("up")
    assert outcome.code == 130
    assert outcome.err.splitlines() == [
        f"error: interrupted during: {phase}",
        f"  started by now: {started}",
        "  `clusterctl status` says what runs, `clusterctl up` continues, `clusterctl down` removes it",
    ]


STATUS_SAYS = "  `clusterctl status` says what runs, `clusterctl up` continues, `clusterctl down` removes it"


def test_ctrl_c_before_anything_was_started(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    def special(argv: Argv) -> Result | None:
        if argv[:2] == ("docker", "pull"):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return None

    fleet.facts = {"gpu-01": {"image": Result(1, "Error: No such image\n", "")}}
    fleet.nodes["gpu-01"].special = special
    outcome = clusterctl("up")
    assert outcome.code == 130
    assert outcome.err.splitlines() == ["error: interrupted during: Get the image", STATUS_SAYS]


def test_ctrl_c_while_facts_are_gathered(
    clusterctl: Clusterctl, fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gather(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cluster.commands.deployment.gather", gather)
    assert clusterctl("up") == Outcome(130, "", "\nerror: interrupted\n")  # below the terminal's ^C
    assert fleet.steps() == {"gpu-01": [], "gpu-02": []}


def test_after_a_failure_the_others_are_not_waited_for_without_end(
    clusterctl: Clusterctl, fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, ended = threading.Event(), threading.Event()

    def hangs(argv: Argv) -> Result | None:
        if argv[:2] == ("docker", "pull"):
            released.wait(60)
            ended.set()
        return None

    monkeypatch.setattr("cluster.apply.PATIENCE", 0.1)
    absent = {"image": Result(1, "Error: No such image\n", "")}
    fleet.facts = {"gpu-01": absent, "gpu-02": absent}
    fleet.nodes["gpu-01"].special = hangs
    fleet.nodes["gpu-02"].special = lambda _: Result(1, "", "no space left on device\n")
    try:
        outcome = clusterctl("up")
        assert not ended.is_set()
    finally:
        released.set()
    assert ended.wait(10)
    assert outcome.code == 7
    assert outcome.err.splitlines() == [
        "error: Get the image failed on 1 of 2 nodes",
        "  gpu-02  docker pull --quiet registry.local/vllm-ray:v0.33.0 exited 1: no space left on device",
        "  Mend it and run `clusterctl up` again: it continues from here; or `clusterctl down`.",
    ]


def test_a_bug_has_an_exit_code_of_its_own(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    def special(_: Argv) -> Result:
        raise ZeroDivisionError("a bug")

    fleet.nodes["gpu-01"].special = special
    outcome = clusterctl("up")
    assert outcome.code == 70
    assert "ZeroDivisionError: a bug" in outcome.err
    assert "please report it" in outcome.err
