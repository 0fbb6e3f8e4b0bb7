"""Generations: what identifies one, what is kept, and what nodes tell together after any interruption."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from samples import GOOD, PROCESS, container, fresh, healthy, inventory, plan

from cluster import phases
from cluster.generations import keep
from cluster.generations.consequence import consequence
from cluster.generations.difference import difference
from cluster.generations.drift import baseline, drift
from cluster.generations.history import History, generations, history
from cluster.generations.record import (
    Generation,
    Outcome,
    outcome_text,
    read_outcome,
    read_record,
    record_text,
)
from cluster.generations.spec import digest_of, inventory_text
from cluster.inventory import load, parse
from cluster.plan import make_plan
from cluster.render import node_files
from cluster.standing import standing
from cluster.steps import Phase, Put, Run

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
AT = "2026-11-21T05:24:26Z"
NODES = ("gpu-01", "gpu-02")


# --- the text of an inventory, and its digest --------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_kept_text_is_the_same_inventory(example: Path) -> None:
    written = load(example)
    again = parse(inventory_text(written), "kept")
    assert again == written
    assert again.model_fields_set == written.model_fields_set
    assert digest_of(make_plan(again), again) == digest_of(make_plan(written), written)


@pytest.mark.parametrize(
    "changes",
    [
        {
            "serve.args": {
                "rope_scale": 1e-05,
                "flag": True,
                "yes": "no",
                "x": {"a": [1, 2.0, "007"]},
                "n": "1:30",
            }
        },
        {"serve.tensor_parallel_size": "auto", "serve.pipeline_parallel_size": 2},
        {"env": {"A": "0123", "B": "null", "C": "ein Wort ü", "D": " x "}, "network.hcas": ["mlx5_0"]},
        {"secrets": {"HF_TOKEN": {"file": "~/token"}}, "watch.interval": 3.5},
    ],
)
def test_awkward_values_survive(changes: Mapping[str, Any]) -> None:
    written = inventory(changes)
    assert parse(inventory_text(written), "kept") == written


def test_hooks_are_not_kept_which_may_hold_the_address_of_a_webhook() -> None:
    written = inventory({"hooks.after_up": ["curl https://hooks.example/T0/verysecret"]})
    assert "verysecret" not in inventory_text(written)
    assert parse(inventory_text(written), "kept") == inventory()


def test_comments_are_not_kept() -> None:
    assert "hf_verysecret" not in inventory_text(parse(GOOD + "# hf_verysecret\n", "a.yaml"))


def digest(changes: Mapping[str, Any] | None = None) -> str:
    return digest_of(plan(changes), inventory(changes))


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"ssh.port": 2222}, True),
        ({"lock.expires_after": 5.0, "heal.max_restarts": 1, "hooks.before_up": ["true"]}, True),
        ({"nodes.1.ssh": {"host": "elsewhere"}}, True),
        ({"ray.port": 6379}, True),  # the default, written down
        ({"ray.port": 6380}, False),
        ({"runtime.image": "registry.local/vllm-ray:v0.34.0"}, False),
        ({"serve.ready_timeout": 1.0}, False),
        ({"head": "gpu-02"}, False),
    ],
)
def test_what_the_digest_is_of(changes: dict[str, Any], same: bool) -> None:
    assert (digest(changes) == digest()) is same


# --- differences, and what follows -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        ({"serve.args.max_model_len": 8192}, ["serve.args.max_model_len: 4096 -> 8192"]),
        ({"serve.args": {}}, ["serve.args.max_model_len: 4096 -> not set"]),
        ({"serve.args.enforce_eager": True}, ["serve.args.enforce_eager: not set -> true"]),
        ({"serve.tensor_parallel_size": 4}, ["serve.tensor_parallel_size: auto -> 4"]),
        (
            {"head": "gpu-02"},
            ["head: gpu-01 -> gpu-02", "nodes.gpu-01.node_rank: 0 -> 1", "nodes.gpu-02.node_rank: 1 -> 0"],
        ),
        (
            {"nodes.1.name": "gpu-03"},
            ["nodes.gpu-02: 10.0.0.12 -> not set", "nodes.gpu-03: not set -> 10.0.0.12"],
        ),
        ({"nodes.0.env": {"A": "b"}}, ["nodes.gpu-01.env.A: not set -> b"]),
        ({"network.hcas": ["mlx5_0"]}, ['network.hcas: auto -> ["mlx5_0"]']),
        ({"ssh.user": "root", "watch.interval": 1.0}, []),
    ],
)
def test_differences_key_by_key(changes: dict[str, Any], lines: list[str]) -> None:
    assert [str(change) for change in difference(inventory(), inventory(changes))] == lines


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "restarts nothing"),
        ({"serve.args.max_model_len": 8192}, "restarts vLLM"),
        ({"env.A": "b"}, "restarts Ray and vLLM"),
        ({"serve.ready_timeout": 1.0}, "restarts nothing"),
    ],
)
def test_what_follows(changes: dict[str, Any], sentence: str) -> None:
    wanted, facts = plan(changes), healthy(plan())
    assert str(consequence(wanted, facts, standing(wanted, facts, ()))) == sentence


def test_what_follows_where_something_is_missing() -> None:
    facts = fresh(plan())
    assert str(consequence(plan(), facts, standing(plan(), facts, ()))) == "starts Ray and vLLM"
    head = facts["gpu-01"]
    facts["gpu-01"] = replace(head, containers=(container(plan(), plan().head, "ray"),))
    assert str(consequence(plan(), facts, standing(plan(), facts, ()))) == "restarts Ray, starts vLLM"
    local, none = plan(base=PROCESS), fresh(plan(base=PROCESS))
    assert str(consequence(local, none, standing(local, none, ()))) == "starts Ray and vLLM"


# --- records and outcomes ----------------------------------------------------------------------------


def test_a_record_is_read_as_it_was_written() -> None:
    generation = Generation(3, "abc", GOOD, AT, "ops@laptop", "0.5.0", ("gpu-02",))
    outcome = Outcome("failed", AT, 7, "it broke", "abc", True, {"boot_id": "x"})
    assert read_record(record_text(generation)) == generation
    assert read_outcome(outcome_text(outcome)) == outcome


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"number": "x"}', '{"state": "odd", "serial": 1}'])
def test_what_is_cut_off_is_nothing(text: str) -> None:
    assert read_record(text) is None and read_outcome(text) is None


# --- what nodes tell together ------------------------------------------------------------------------


Kept = dict[str, dict[str, str]]


def write(kept: Kept, steps: list[Put | Run]) -> Kept:
    """The nodes' files after these steps."""
    after = {node: dict(files) for node, files in kept.items()}
    for step in steps:
        files = after[step.node]
        if isinstance(step, Put):
            files[step.path.partition(f"/{step.node}/")[2]] = step.content
        else:
            gone = tuple(path.partition(f"/{step.node}/")[2] + "/" for path in step.argv[2:])
            after[step.node] = {p: text for p, text in files.items() if not f"{p}/".startswith(gone)}
    return after


def begin(kept: Kept, number: int, digest: str) -> list[Put | Run]:
    generation = Generation(number, digest, GOOD, AT, "ops@laptop", "0.5.0")
    return list(keep.begin("demo", NODES, generation, plan(), history(kept)))


def note(kept: Kept, number: int, state: Any, **more: Any) -> list[Put | Run]:
    return list(keep.outcome("demo", NODES, keep.Note(number, state, AT, **more), history(kept)))


def serves(kept: Kept, number: int) -> Kept:
    found = {node: {"boot_id": f"{node} {number}"} for node in NODES}
    return write(kept, note(kept, number, "serving", baselines=found))


@pytest.fixture
def one() -> Kept:
    """Generation 1 serves."""
    empty: Kept = {node: {} for node in NODES}
    return serves(write(empty, begin(empty, 1, "first")), 1)


def told(kept: Kept) -> tuple[int | None, dict[int, str]]:
    known = history(kept)
    return known.current, {number: outcome.state for number, outcome in known.outcomes.items()}


def test_nothing_is_kept() -> None:
    known = history({node: {} for node in NODES})
    assert (known, known.current, known.served, known.newest) == (
        History({}, {node: {} for node in NODES}),
        None,
        None,
        0,
    )
    assert known.number_for("any") == 1


def test_the_next_one_replaces_it(one: Kept) -> None:
    assert told(one) == (1, {1: "serving"})
    assert history(one).number_for("first") == 1
    assert history(one).number_for("second") == 2
    begun = write(one, begin(one, 2, "second"))
    assert told(begun) == (2, {1: "serving", 2: "starting"})
    assert (history(begun).served, history(begun).served_before) == (None, 1)
    assert (history(begun).fallback(2), history(begun).fallback(3), history(one).fallback(1)) == (1, 1, None)
    assert (history(begun).number_for("second"), history(begun).number_for("first")) == (2, 3)
    two = serves(begun, 2)
    assert told(two) == (2, {1: "superseded", 2: "serving"})
    assert history(two).baseline("gpu-02") == {"boot_id": "gpu-02 2"}
    assert [files["current"] for files in two.values()] == ["2\n", "2\n"]


def test_one_that_fails_and_is_rolled_back(one: Kept) -> None:
    begun = write(one, begin(one, 2, "second"))
    failed = write(begun, note(begun, 2, "failed", reason="it broke"))
    assert told(failed) == (2, {1: "serving", 2: "failed"})
    assert history(failed).number_for("second") == 2  # it was left so: it goes on
    again = write(failed, note(failed, 1, "starting"))
    assert told(again) == (1, {1: "starting", 2: "failed"})
    assert history(again).fallback(3) == 1  # killed while it was put back: it is still what served last
    back = serves(again, 1)
    assert told(back) == (1, {1: "serving", 2: "failed"})
    assert history(back).number_for("second") == 3  # it was rolled back: a second try has a number of its own
    assert history(back).outcomes[2].reason == "it broke"


def test_after_down_nothing_should_run(one: Kept) -> None:
    down = write(one, list(keep.ended("demo", NODES, history(one), AT)))
    assert told(down) == (None, {1: "stopped"})
    assert not any("current" in files for files in down.values())
    assert history(down).served_before == 1
    assert keep.ended("demo", NODES, history(down), AT) == ()
    assert history(write(down, begin(down, 2, "second"))).fallback(2) is None
    assert history(down).number_for("first") == 2


def test_after_down_nothing_of_before_is_put_back(one: Kept) -> None:
    begun = write(one, begin(one, 2, "second"))
    failed = write(begun, note(begun, 2, "failed"))
    assert history(failed).fallback(2) == 1
    down = write(failed, list(keep.ended("demo", NODES, history(failed), AT)))
    assert told(down) == (None, {1: "superseded", 2: "stopped"})
    assert history(write(down, begin(down, 3, "third"))).fallback(3) is None


def test_one_that_was_begun_by_a_killed_command_is_replaced_too(one: Kept) -> None:
    begun = write(one, begin(one, 2, "second"))
    third = write(begun, begin(begun, 3, "third"))
    assert told(serves(third, 3)) == (3, {1: "superseded", 2: "superseded", 3: "serving"})


def stories(before: Kept, steps: list[Put | Run]) -> list[Kept]:
    """What may be there where the command that wrote this was killed: any part of it on each node."""
    own = [[step for step in steps if step.node == node] for node in NODES]
    cut = itertools.product(*(range(len(steps) + 1) for steps in own))
    return [write(before, [s for steps, n in zip(own, ends, strict=True) for s in steps[:n]]) for ends in cut]


def test_killed_while_it_begins_it_is_the_old_one_or_the_new_one(one: Kept) -> None:
    for story in stories(one, begin(one, 2, "second")):
        known = history(story)
        assert known.current in (1, 2)
        if known.current == 2:
            assert read_record(story["gpu-01"].get("generations/2/record.json", "")) or read_record(
                story["gpu-02"].get("generations/2/record.json", "")
            )
        assert known.number_for("second") == 2


def test_killed_while_it_notes_that_it_serves_it_is_the_new_one(one: Kept) -> None:
    begun = write(one, begin(one, 2, "second"))
    steps = note(begun, 2, "serving", baselines={})
    for story in stories(begun, steps):
        assert history(story).current == 2
        assert history(story).number_for("second") == 2
        assert told(serves(story, 2)) == (2, {1: "superseded", 2: "serving"})


def test_killed_while_it_is_rolled_back_it_is_either_and_the_next_word_settles_it(one: Kept) -> None:
    begun = write(one, begin(one, 2, "second"))
    failed = write(begun, note(begun, 2, "failed"))
    for story in stories(failed, note(failed, 1, "starting")):
        assert history(story).current in (1, 2)
        assert told(serves(story, 1)) == (1, {1: "serving", 2: "failed"})


def test_killed_while_it_goes_down(one: Kept) -> None:
    for story in stories(one, list(keep.ended("demo", NODES, history(one), AT))):
        assert history(story).current in (1, None)
        again = write(story, list(keep.ended("demo", NODES, history(story), AT)))
        assert history(again).current is None


def test_a_node_that_was_away_does_not_count_against_the_others(one: Kept) -> None:
    two = serves(write(one, begin(one, 2, "second")), 2)
    mixed = {"gpu-01": two["gpu-01"], "gpu-02": one["gpu-02"]}
    assert told(mixed)[0] == 2
    three = serves(write(mixed, begin(mixed, 3, "third")), 3)
    assert told(three) == (3, {1: "superseded", 2: "superseded", 3: "serving"})


def test_records_are_read_from_any_node(one: Kept) -> None:
    del one["gpu-01"]["generations/1/record.json"]
    assert list(generations(one)) == [1]
    assert generations({"gpu-01": {"generations/1/record.json": "{"}}) == {}


def test_old_ones_go_but_not_the_one_that_runs(one: Kept) -> None:
    kept = one
    for number in range(2, keep.KEPT + 4):
        kept = write(kept, begin(kept, number, str(number)))
        kept = write(kept, note(kept, number, "failed"))
        kept = serves(kept, 1)
    assert len(history(kept).outcomes) == keep.KEPT + 1  # and the one that runs
    assert told(kept)[0] == 1
    assert "generations/2/record.json" not in kept["gpu-01"]


def test_what_would_be_put_back_is_never_too_old(one: Kept) -> None:
    kept = one
    for number in range(2, keep.KEPT + 4):  # each failed, and was left so
        kept = write(kept, begin(kept, number, str(number)))
        kept = write(kept, note(kept, number, "failed"))
    assert history(kept).fallback(99) == 1
    assert "generations/1/record.json" in kept["gpu-02"]


def test_only_members_get_what_is_rendered_and_everything_is_for_the_owner_alone() -> None:
    generation = Generation(1, "a", GOOD, AT, "ops@laptop", "0.5.0")
    steps = list(keep.begin("demo", (*NODES, "gpu-03"), generation, plan(), History()))
    assert {step.node for step in steps if isinstance(step, Put) and step.path.endswith("rendered.json")} == {
        *NODES
    }
    assert {step.node for step in steps} == {*NODES, "gpu-03"}
    assert {step.mode for step in steps if isinstance(step, Put)} == {0o600}
    rendered = json.loads(next(s.content for s in steps if isinstance(s, Put) and "rendered" in s.path))
    assert set(rendered) >= {"run_cluster.sh", "ray.sh", "env"}


# --- beside the scripts ------------------------------------------------------------------------------


def numbers(found: tuple[Phase, ...]) -> dict[str, str]:
    """{node: the number that is written beside its scripts}."""
    puts = [step for phase in found for step in phase.steps if isinstance(step, Put)]
    return {step.node: step.content for step in puts if step.path.endswith("/generation")}


def test_the_number_is_written_where_something_is_started() -> None:
    assert numbers(phases.up(plan(), fresh(plan()), generation=3)) == {"gpu-01": "3\n", "gpu-02": "3\n"}
    longer = plan({"serve.args.max_model_len": 8192})
    assert numbers(phases.up(longer, healthy(plan()), generation=4)) == {"gpu-01": "4\n"}
    assert numbers(phases.up(plan(), healthy(plan()), generation=5)) == {}
    assert numbers(phases.up(plan(), fresh(plan()))) == {}


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_containers_are_labelled_with_it_and_no_digest_knows_of_it(engine: str) -> None:
    wanted = plan({"runtime.engine": engine})
    script = next(file.content for file in node_files(wanted, wanted.head) if file.path == "run_cluster.sh")
    assert script.count('--label "clusterctl.generation=$(generation)"') == 2


@pytest.mark.parametrize(
    ("path", "goes"),
    [
        (".env.4711.part", True),
        ("on_node/.completion.py.4711.part", True),
        ("serve_v2.sh", True),
        ("generation", False),
        ("ignored", False),
        ("network.env", False),
        ("plugins/__pycache__/x.cpython-311.pyc", False),
    ],
)
def test_what_does_not_belong_there_goes(path: str, goes: bool) -> None:
    facts = healthy(plan())
    facts["gpu-02"] = replace(facts["gpu-02"], files={**facts["gpu-02"].files, path: "0"})
    removed = [step for phase in phases.up(plan(), facts) for step in phase.steps]
    wanted = [Run("gpu-02", ("rm", "-f", f".clusterctl/demo/gpu-02/{path}"))] if goes else []
    assert removed == wanted


# --- drift -------------------------------------------------------------------------------------------


def test_nothing_has_drifted_from_itself() -> None:
    facts = healthy(plan())
    before = {node: json.loads(json.dumps(baseline(fact))) for node, fact in facts.items()}
    assert drift(plan(), before, facts) == []


def test_a_node_of_which_nothing_was_noted_and_one_that_cannot_say() -> None:
    facts = healthy(plan())
    before = {"gpu-01": baseline(facts["gpu-01"])}
    silent = {**facts, "gpu-01": replace(facts["gpu-01"], engine_error="no daemon", containers=())}
    assert [str(one) for one in drift(plan(), before, silent)] == [
        "gpu-01: docker: no daemon",
        "gpu-02: nothing was noted of it when this generation served",
    ]


def test_a_process_that_was_started_again_and_a_container_that_was_replaced() -> None:
    for base, kind in ((PROCESS, "restarted"), (GOOD, "replaced")):
        wanted = plan(base=base)
        head = wanted.head.name
        facts = healthy(wanted)
        before = {node: baseline(fact) for node, fact in facts.items()}
        later = tuple(
            replace(c, started_at="2026-11-22T00:00:00Z", id=c.name if base == PROCESS else f"new-{c.role}")
            for c in facts[head].containers
        )
        found = drift(wanted, before, facts | {head: replace(facts[head], containers=later)})
        assert {one.kind for one in found} == {kind}
