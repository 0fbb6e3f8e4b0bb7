"""Generations: what differs is said, what fails is rolled back, and what runs is compared with what ran."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable

import pytest
from fakes import FakeFleet, FakeNode, Outcome
from samples import GOOD

from cluster.errors import ConnectionLost
from cluster.steps import Argv, Result

Clusterctl = Callable[..., Outcome]
LONGER = GOOD.replace("4096", "8192")
MEND = "  Mend the inventory and run `clusterctl up` again."


def outcomes(node: FakeNode) -> dict[int, str]:
    """{generation: its state} as this node has it."""
    found = {path: json.loads(text) for path, text in node.kept.items() if path.endswith("outcome.json")}
    return {int(path.split("/")[1]): content["state"] for path, content in found.items()}


def refuses(fleet: FakeFleet, flag: str) -> None:
    """vLLM dies on the head where its script has this in it."""
    head = fleet.nodes["gpu-01"]

    def special(argv: Argv) -> Result | None:
        if argv[2:] == ("ready",) and flag in head.files["serve.sh"]:
            return Result(3, "", "clusterctl-demo-serve is not running: exited, exit code 1\n")
        return None

    head.special = special
    head.logs["serve"] = "2026-11-21T05:24:26.000000000Z ValueError: this length is too long\n"


@pytest.fixture
def first(clusterctl: Clusterctl, fleet: FakeFleet) -> FakeFleet:
    """The fleet with generation 1 serving."""
    assert clusterctl("up").code == 0
    fleet.steps()
    return fleet


def test_a_node_that_takes_no_note_takes_nothing_down(
    clusterctl: Clusterctl, first: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = FakeNode.put

    def put(node: FakeNode, path: str, content: str, mode: int) -> None:
        if node.name == "gpu-02" and path.endswith("2/outcome.json") and '"serving"' in content:
            raise ConnectionLost("cannot write: no space left on device")
        write(node, path, content, mode)

    monkeypatch.setattr(FakeNode, "put", put)
    first.write(LONGER)
    outcome = clusterctl("up")
    assert outcome.code == 7
    assert outcome.err.startswith("error: Keep the record failed on 1 of 2 nodes\n  gpu-02  cannot write")
    assert "put back" not in outcome.out + outcome.err
    assert clusterctl("status").code == 0
    assert "8192" in first.nodes["gpu-01"].files["serve.sh"]


def test_the_first_is_written_on_every_node(first: FakeFleet) -> None:
    for node in first.nodes.values():
        assert node.kept["current"] == "1\n"
        assert outcomes(node) == {1: "serving"}
        record = json.loads(node.kept["generations/1/record.json"])
        assert (record["number"], record["quarantined"]) == (1, [])
        assert "max_model_len: 4096" in record["inventory"] and "@" in record["by"]
        rendered = json.loads(node.kept["generations/1/rendered.json"])
        assert rendered["run_cluster.sh"] == node.files["run_cluster.sh"]
        assert rendered["on_node/completion.py"].startswith("sha256:")
        baseline = json.loads(node.kept["generations/1/outcome.json"])["baseline"]
        assert baseline["containers"]["ray"]["id"] == f"ray-{node.name}"[:12]
        assert {c["Config"]["Labels"]["clusterctl.generation"] for c in node.containers.values()} == {"1"}


def test_a_change_is_said_before_it_is_made_and_replaces_only_what_it_has_to(
    clusterctl: Clusterctl, first: FakeFleet
) -> None:
    first.write(LONGER)
    outcome = clusterctl("up")
    assert outcome.code == 0, outcome.err
    assert outcome.lines[:3] == [
        "generation 1 -> 2",
        "  serve.args.max_model_len: 4096 -> 8192",
        "  restarts vLLM",
    ]
    head = first.nodes["gpu-01"]
    labels = {c["Name"]: c["Config"]["Labels"]["clusterctl.generation"] for c in head.containers.values()}
    assert labels == {"/clusterctl-demo-ray": "1", "/clusterctl-demo-serve": "2"}
    assert [outcomes(node) for node in first.nodes.values()] == [{1: "superseded", 2: "serving"}] * 2
    assert clusterctl("up").out.startswith("nothing to do")


@pytest.mark.parametrize(
    ("text", "change", "follows"),
    [
        (GOOD.replace("v0.33.0", "v0.34.0"), "runtime.image: ", "restarts Ray and vLLM"),
        (GOOD + "env: {A: b}\n", "env.A: not set -> b", "restarts Ray and vLLM"),
        (GOOD.replace("port: 8000", "port: 8001"), "serve.port: 8000 -> 8001", "restarts vLLM"),
    ],
)
def test_what_follows_from_a_change(
    clusterctl: Clusterctl, first: FakeFleet, text: str, change: str, follows: str
) -> None:
    first.write(text)
    lines = clusterctl("up", "--dry-run").lines
    assert lines[1].startswith(f"  {change}")
    assert lines[2] == f"  {follows}"
    (event, *_) = clusterctl("up", "--dry-run", "--json").events
    assert (event["event"], event["generation"], event["current"]) == ("difference", 2, 1)
    assert event["restarts"] == follows.removeprefix("restarts ").split(" and ")
    assert outcomes(first.nodes["gpu-01"]) == {1: "serving"}  # a dry run notes nothing


def test_a_key_that_nothing_on_the_nodes_follows_from_is_a_generation_too(
    clusterctl: Clusterctl, first: FakeFleet
) -> None:
    first.write(GOOD.replace("port: 8000", "port: 8000, ready_timeout: 60.0"))
    outcome = clusterctl("up")
    assert outcome.lines == [
        "generation 1 -> 2",
        "  serve.ready_timeout: 3600.0 -> 60.0",
        "  restarts nothing",
        "nothing to do: llama is serving on http://10.0.0.11:8000/v1",
    ]
    assert first.steps() == {"gpu-01": [], "gpu-02": []}
    assert outcomes(first.nodes["gpu-02"]) == {1: "superseded", 2: "serving"}
    assert clusterctl("diff").code == 0


def test_what_concerns_the_operator_alone_is_no_generation(clusterctl: Clusterctl, first: FakeFleet) -> None:
    first.write(GOOD + "lock: {expires_after: 5.0}\nwatch: {interval: 3.0}\n")
    assert clusterctl("up").out.startswith("nothing to do")
    assert outcomes(first.nodes["gpu-01"]) == {1: "serving"}
    assert clusterctl("diff").code == 0


def test_one_that_does_not_answer_is_rolled_back(clusterctl: Clusterctl, first: FakeFleet) -> None:
    refuses(first, "8192")
    first.write(LONGER)
    outcome = clusterctl("up")
    assert outcome.code == 7
    assert "generation 2 does not serve: Wait for a completion failed on 1 of 2 nodes" in outcome.lines
    assert outcome.lines[-1] == "generation 1 answers"
    told = outcome.err.splitlines()
    assert told[0] == "error: Wait for a completion failed on 1 of 2 nodes"
    assert told[-3].startswith("  Generation 1 was put back and answers; no generation answered for ")
    assert told[-2] == (f"  `clusterctl logs --generation 2 {first.file}` shows what generation 2 said.")
    assert told[-1] == MEND
    assert "4096" in first.nodes["gpu-01"].files["serve.sh"]
    for node in first.nodes.values():
        assert node.kept["current"] == "1\n"
        assert outcomes(node) == {1: "serving", 2: "failed"}
    assert clusterctl("status").code == 0
    kept = clusterctl("logs", "--generation", "2")
    assert kept.lines == ["2026-11-21T05:24:26.000 gpu-01 serve ValueError: this length is too long"]
    assert clusterctl("diff").code == 2  # the inventory still asks for it
    assert clusterctl("up").code == 7
    assert outcomes(first.nodes["gpu-01"]) == {1: "serving", 2: "failed", 3: "failed"}
    first.write(GOOD)
    assert clusterctl("up").out.startswith("nothing to do")


def test_a_rollback_in_json(clusterctl: Clusterctl, first: FakeFleet) -> None:
    refuses(first, "8192")
    first.write(LONGER)
    events = clusterctl("up", "--json").events
    (began,) = (event for event in events if event["event"] == "rollback")
    assert (began["failed"], began["generation"]) == (2, 1)
    assert (events[-1]["event"], events[-1]["generation"]) == ("rolled_back", 1)
    assert events[-1]["unavailable_seconds"] > 0


def test_what_fails_before_anything_was_stopped_was_never_away(
    clusterctl: Clusterctl, first: FakeFleet
) -> None:
    first.write(GOOD.replace("v0.33.0", "v0.34.0"))
    first.facts = {node: {"image": Result(1, "Error: No such image\n", "")} for node in first.nodes}
    pulls: list[str] = []

    def special(argv: Argv) -> Result | None:
        if argv[:2] != ("docker", "pull"):
            return None
        pulls.append(argv[-1])
        first.facts = {}  # the next look is for the image of before
        return Result(1, "", "manifest unknown\n")

    first.nodes["gpu-01"].special = special
    outcome = clusterctl("up")
    assert outcome.code == 7 and len(pulls) == 1
    assert "  Generation 1 was put back and answers; it never stopped answering." in outcome.err.splitlines()


def test_without_rollback_it_stays_as_it_failed(clusterctl: Clusterctl, first: FakeFleet) -> None:
    refuses(first, "8192")
    first.write(LONGER)
    outcome = clusterctl("up", "--no-rollback")
    assert outcome.code == 7
    assert "put back" not in outcome.out + outcome.err
    assert "8192" in first.nodes["gpu-01"].files["serve.sh"]
    assert outcomes(first.nodes["gpu-01"]) == {1: "serving", 2: "failed"}
    assert first.nodes["gpu-01"].kept["current"] == "2\n"
    first.nodes["gpu-01"].special = lambda _: None
    assert clusterctl("up").code == 0  # mended on the node: the same generation goes on
    assert outcomes(first.nodes["gpu-01"]) == {1: "superseded", 2: "serving"}


def test_where_the_former_one_cannot_be_put_back_both_are_told(
    clusterctl: Clusterctl, first: FakeFleet
) -> None:
    refuses(first, "max-model-len")  # neither serves any more
    first.write(LONGER)
    outcome = clusterctl("up")
    assert outcome.code == 7
    assert "Generation 1 could not be put back: Wait for a completion failed on 1 of 2 nodes" in outcome.err
    assert outcome.err.startswith("error: Wait for a completion failed on 1 of 2 nodes")
    assert outcome.err.count("Mend it and run `clusterctl up` again") == 1


def test_ctrl_c_puts_nothing_back_and_says_so(clusterctl: Clusterctl, first: FakeFleet) -> None:
    main = threading.main_thread().ident or 0
    presses = [signal.SIGINT]

    def special(argv: Argv) -> Result | None:
        if argv[2:] != ("ready",):
            return None
        if presses:
            signal.pthread_kill(main, presses.pop())
        return Result(1, "", "not yet\n")

    first.nodes["gpu-01"].special = special
    first.write(LONGER)
    outcome = clusterctl("up")
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1] == (
        "  generation 2 is half made, and nothing was put back: `clusterctl rollback` puts generation 1 back"
    )
    assert outcomes(first.nodes["gpu-01"]) == {1: "serving", 2: "starting"}
    first.nodes["gpu-01"].special = lambda _: None
    assert clusterctl("up").code == 0
    assert outcomes(first.nodes["gpu-01"]) == {1: "superseded", 2: "serving"}


def test_what_a_killed_up_began_and_does_not_serve_is_rolled_back_too(
    clusterctl: Clusterctl, first: FakeFleet
) -> None:
    """kill -9 while generation 2 loads, and `up` again: what serves last is still generation 1."""

    class Killed(BaseException):
        pass

    def special(argv: Argv) -> Result | None:
        if argv[2:] == ("ready",):
            raise Killed
        return None

    first.nodes["gpu-01"].special = special
    first.write(LONGER)
    with pytest.raises(Killed):
        clusterctl("up")
    assert outcomes(first.nodes["gpu-01"]) == {1: "serving", 2: "starting"}
    refuses(first, "8192")
    first.facts = {"gpu-01": {"answer": Result(1, "", "Connection refused\n")}}
    outcome = clusterctl("up")
    assert outcome.code == 7
    assert "Generation 1 was put back and answers" in outcome.err
    assert outcomes(first.nodes["gpu-02"]) == {1: "serving", 2: "failed"}


def test_rollback_brings_a_former_one_back_under_its_number(clusterctl: Clusterctl, first: FakeFleet) -> None:
    first.write(LONGER)
    clusterctl("up")
    first.write(GOOD.replace("4096", "512"))
    clusterctl("up")
    outcome = clusterctl("rollback", "--yes")
    assert outcome.code == 0, outcome.err
    assert outcome.lines[:3] == [
        "generation 3 -> 2",
        "  serve.args.max_model_len: 512 -> 8192",
        "  restarts vLLM",
    ]
    assert outcomes(first.nodes["gpu-02"]) == {1: "superseded", 2: "serving", 3: "superseded"}
    assert "8192" in first.nodes["gpu-01"].files["serve.sh"]
    assert clusterctl("rollback", "1", "--yes").code == 0
    assert "4096" in first.nodes["gpu-01"].files["serve.sh"]
    assert first.nodes["gpu-01"].kept["current"] == "1\n"
    assert clusterctl("up").code == 0  # the inventory still says 512
    assert outcomes(first.nodes["gpu-01"])[4] == "serving"


def test_rollback_to_what_serves_has_nothing_to_do(clusterctl: Clusterctl, first: FakeFleet) -> None:
    audit = clusterctl("audit").out
    outcome = clusterctl("rollback", "1", "--yes")
    assert outcome == Outcome(0, "nothing to do: llama is serving on http://10.0.0.11:8000/v1\n", "")
    assert clusterctl("rollback", "1", "--yes", "--json").events[0]["event"] == "nothing_to_do"
    assert clusterctl("audit").out == audit
    assert first.steps() == {"gpu-01": [], "gpu-02": []}


def test_rollback_after_down_brings_back_who_served_last(clusterctl: Clusterctl, first: FakeFleet) -> None:
    first.write(LONGER)
    clusterctl("up")
    clusterctl("rollback", "--yes")
    clusterctl("down", "--yes")
    outcome = clusterctl("rollback", "--yes")
    assert outcome.code == 0, outcome.err
    assert outcome.lines[0].startswith("generation 1 of ")
    assert first.nodes["gpu-01"].kept["current"] == "1\n"


def test_rollback_to_what_there_is_not(clusterctl: Clusterctl, first: FakeFleet) -> None:
    assert clusterctl("rollback", "--yes").err == (
        "error: no generation before this one served: there is nothing to put back\n"
    )
    assert clusterctl("rollback", "7", "--yes").err == (
        "error: generation 7 is not known on the nodes; those that are: 1 (`clusterctl history`)\n"
    )
    assert clusterctl("rollback").code == 2
    assert first.steps() == {"gpu-01": [], "gpu-02": []}


def test_history_lists_them(clusterctl: Clusterctl, first: FakeFleet) -> None:
    refuses(first, "8192")
    first.write(LONGER)
    clusterctl("up")
    lines = clusterctl("history").lines
    assert lines[0].split() == ["generation", "state", "began", "by", "changed"]
    assert [line.split()[:3] for line in lines[1:3]] == [
        ["1", "*", "serving"],
        ["2", "failed", lines[2].split()[2]],
    ]
    assert lines[2].endswith("serve.args.max_model_len: 4096 -> 8192")
    assert lines[3] == "! generation 2: Wait for a completion failed on 1 of 2 nodes"
    one, two = clusterctl("history", "--json").events
    assert (one["generation"], one["current"], one["state"], one["served"]) == (1, True, "serving", True)
    assert (two["generation"], two["current"], two["state"], two["served"]) == (2, False, "failed", False)


def test_no_secret_is_kept(clusterctl: Clusterctl, fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    fleet.write(GOOD + "secrets: {HF_TOKEN: {env: HF_TOKEN}} # hf_verysecret\n")
    assert clusterctl("up").code == 0
    for node in fleet.nodes.values():
        assert node.kept and "verysecret" not in "".join(node.kept.values())


# --- what a killed command left, and drift ------------------------------------------------------------


def test_what_a_killed_up_left_is_removed(clusterctl: Clusterctl, first: FakeFleet) -> None:
    head = first.nodes["gpu-01"]
    head.files |= {".run_cluster.sh.4711.part": "half", "old.sh": "", "plugins/__pycache__/a.pyc": ""}
    head.containers["probe-1"] = {
        "Id": "probe-1",
        "Name": "/x",
        "State": {"Running": False, "Status": "created"},
        "Config": {"Labels": {"clusterctl.cluster": "demo", "clusterctl.role": "probe"}},
    }
    assert clusterctl("up").code == 0
    assert first.steps()["gpu-01"] == [
        "gpu-01  docker rm --force --volumes probe-1",
        "gpu-01  rm -f .clusterctl/demo/gpu-01/.run_cluster.sh.4711.part .clusterctl/demo/gpu-01/old.sh",
    ]
    assert clusterctl("up").out.startswith("nothing to do")


def test_a_container_that_was_made_and_never_started_is_replaced(
    clusterctl: Clusterctl, first: FakeFleet
) -> None:
    worker = first.nodes["gpu-02"]
    worker.containers["ray-gpu-02"]["State"] = {"Running": False, "Status": "created", "ExitCode": 0}
    assert clusterctl("up").code == 0
    assert first.steps()["gpu-02"][0] == "gpu-02  docker rm --force --volumes ray-gpu-02"
    assert outcomes(worker) == {1: "serving"}  # what is put right is no other generation


def test_no_difference(clusterctl: Clusterctl, first: FakeFleet) -> None:
    outcome = clusterctl("diff")
    assert outcome == Outcome(0, "no difference: generation 1 runs as the inventory says\n", "")
    (event,) = clusterctl("diff", "--json").events
    assert (event["differs"], event["drift"], event["changes"], event["current"]) == (False, [], [], 1)
    assert first.steps() == {"gpu-01": [], "gpu-02": []}


def test_a_difference(clusterctl: Clusterctl, first: FakeFleet) -> None:
    first.write(LONGER)
    outcome = clusterctl("diff")
    assert outcome.code == 2
    assert outcome.lines[1:] == ["  serve.args.max_model_len: 4096 -> 8192", "  restarts vLLM"]
    (event,) = clusterctl("diff", "--json").events
    assert event["changes"] == [{"key": "serve.args.max_model_len", "before": 4096, "after": 8192}]


def test_nothing_was_ever_deployed(clusterctl: Clusterctl) -> None:
    outcome = clusterctl("diff")
    assert outcome == Outcome(2, "nothing is deployed: `clusterctl up` starts Ray and vLLM\n", "")
    assert clusterctl("history").out == "no generation yet: `clusterctl up` makes the first\n"


SYSTEM = "kernel=6.1\nboot_id={}\n"


def test_drift(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.facts = {name: {"system": Result(0, SYSTEM.format("one"), "")} for name in fleet.nodes}
    assert clusterctl("up").code == 0
    head, worker = fleet.nodes["gpu-01"], fleet.nodes["gpu-02"]
    head.containers["ray-gpu-01"]["State"]["StartedAt"] = "2026-11-22T00:00:00Z"
    head.containers["serve-gpu-01"]["Image"] = "sha256:" + "b" * 64
    del worker.containers["ray-gpu-02"]
    worker.gpus = 1
    fleet.facts["gpu-02"] = {"system": Result(0, SYSTEM.format("two"), "")}
    outcome = clusterctl("diff")
    assert outcome.code == 2
    assert [line for line in outcome.lines if line.startswith("!")] == [
        "! gpu-01: the ray container was restarted: it started at 2026-11-22T00:00:00Z, "
        "at 2026-11-21T05:24:26.654017Z before",
        f"! gpu-01: the serve container runs sha256:{'b' * 64}, sha256:{'a' * 64} before",
        "! gpu-02: it was rebooted since this generation served",
        "! gpu-02: 1 GPU, 2 before; gone: GPU-1",
        "! gpu-02: the ray container is gone",
    ]
    (event,) = clusterctl("diff", "--json").events
    kinds = {(one["node"], one["kind"]) for one in event["drift"]}
    assert kinds == {
        ("gpu-01", "restarted"),
        ("gpu-01", "image"),
        ("gpu-02", "rebooted"),
        ("gpu-02", "gpus"),
        ("gpu-02", "gone"),
    }
    worker.gpus = 2
    assert clusterctl("up").code == 0
    assert clusterctl("diff").code == 0  # what was brought up is what is compared with from now on


def test_a_member_that_cannot_be_reached_says_nothing_of_itself(
    clusterctl: Clusterctl, first: FakeFleet
) -> None:
    first.nodes["gpu-02"].unreachable = "no answer"
    first.write(LONGER)
    outcome = clusterctl("diff")
    assert outcome.code == 4
    assert "  serve.args.max_model_len: 4096 -> 8192" in outcome.lines
    first.write(GOOD)
    assert clusterctl("diff").lines == [
        "the inventory is that of generation 1; whether it runs on gpu-02 is not known"
    ]


def test_where_no_node_answers_nothing_is_said_of_what_is_deployed(
    clusterctl: Clusterctl, first: FakeFleet
) -> None:
    for node in first.nodes.values():
        node.unreachable = "no answer"
    outcome = clusterctl("diff")
    assert outcome.code == 4
    assert outcome.lines == ["no node that answers knows of a generation; gpu-01, gpu-02 may"]


def test_a_spare_that_cannot_be_reached_stops_nothing(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    fleet.write(GOOD + "  - {name: gpu-03, address: 10.0.0.13, gpus: 2, spare: true}\n")
    fleet.nodes["gpu-03"].unreachable = "no answer"
    assert clusterctl("up").code == 0
    assert clusterctl("diff").code == 0


def test_what_is_left_on_a_node_without_a_part_is_removed(clusterctl: Clusterctl, fleet: FakeFleet) -> None:
    clusterctl("up")
    fleet.write(GOOD + "  - {name: gpu-03, address: 10.0.0.13, gpus: 2, spare: true}\n")
    left = json.loads(json.dumps(fleet.nodes["gpu-01"].containers["serve-gpu-01"]))
    fleet.nodes["gpu-03"].containers["serve-gpu-03"] = left | {"Id": "serve-gpu-03"}
    fleet.steps()
    assert clusterctl("up").code == 0
    assert not fleet.nodes["gpu-03"].containers
    assert clusterctl("up").out.startswith("nothing to do")


def test_where_nodes_tell_different_stories_the_last_word_counts(
    clusterctl: Clusterctl, first: FakeFleet
) -> None:
    """Killed after the first node of two had heard that generation 2 serves."""
    before = dict(first.nodes["gpu-02"].kept)
    first.write(LONGER)
    clusterctl("up")
    first.nodes["gpu-02"].kept = before
    assert clusterctl("history", "--json").events[-1]["state"] == "serving"
    assert clusterctl("up").out.startswith("nothing to do")
    assert first.nodes["gpu-02"].kept["current"] == "2\n"
    assert outcomes(first.nodes["gpu-02"])[2] == "serving"
    assert "generations/2/record.json" in first.nodes["gpu-02"].kept
    assert clusterctl("diff").code == 0
