"""What is made of what a server shows, look by look."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from samples import container, healthy, plan

from cluster.facts import Facts, Scrape
from cluster.liveness import (
    Completion,
    Counters,
    History,
    Liveness,
    Observation,
    Settings,
    ask_due,
    completion,
    counters,
    heal_due,
    judge,
    observation,
)
from cluster.liveness.counters import MARKS
from cluster.steps import Result

SETTINGS = Settings(interval=10.0, wedged_after=120.0, ready_timeout=600.0)
METRICS = (Path(__file__).parent.parent / "recorded" / "watch" / "metrics-0.32-busy.txt").read_text()


class Watched:
    """A history that grows: `look(tokens=7)` is one look, 10 s after the one before."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.history, self.at = History(settings), 1000.0

    def look(self, seconds: float = 10.0, **changes: Any) -> Liveness:
        self.at += seconds
        self.history = self.history.seen(seen(self.at, **changes))
        return judge(self.history)

    def ask(self) -> None:
        assert ask_due(self.history)
        self.history = self.history.question()

    def states(self, looks: int, **changes: Any) -> list[str]:
        return [self.look(**changes).state for _ in range(looks)]


def seen(
    at: float, tokens: float = 0, running: int = 0, waiting: int = 0, kv: float = 0, **more: Any
) -> Observation:
    marks = {"tokens": tokens, "kv": kv, "running": float(running)}
    counted = Counters(running, waiting, marks=marks)
    return replace(Observation(at, server="a", health=200, counters=counted), **more)


WAITING, ANSWERED = Completion("waiting"), Completion("answered")


def test_idle_is_asked_once_in_wedged_after() -> None:
    watched = Watched()
    asked = []
    answer = None
    for number in range(60):
        assert watched.look(completion=answer, tokens=len(asked)).state == "idle"
        answer = None
        if ask_due(watched.history):
            watched.ask()
            asked.append(number)
            answer = ANSWERED
    assert asked[0] == 0
    assert {later - earlier for earlier, later in pairwise(asked)} == {13}


def test_counters_that_move_are_busy_and_nobody_asks() -> None:
    watched = Watched()
    for tokens in range(100):
        assert watched.look(tokens=tokens, running=3, waiting=500).state == "busy"
        assert tokens == 0 or not ask_due(watched.history)


def test_a_long_prompt_moves_the_kv_cache_alone() -> None:
    """With chunked prefill no token is counted until the answer begins."""
    watched = Watched()
    assert {watched.look(kv=chunk / 1000, running=1).state for chunk in range(100)} == {"busy"}


def test_a_question_behind_a_long_queue_is_no_sign() -> None:
    watched = Watched()
    watched.look(tokens=1, running=8)
    watched.look(tokens=1, running=8)
    watched.ask()
    states = {watched.look(tokens=2 + n // 5, running=8, completion=WAITING).state for n in range(100)}
    assert states == {"busy", "slow"}


@pytest.mark.parametrize(("running", "before"), [(0, {"idle", "slow"}), (2, {"slow"})], ids=["idle", "busy"])
def test_wedged_behind_a_healthy_health(running: int, before: set[str]) -> None:
    watched = Watched()
    watched.look(tokens=1, running=running)
    watched.look(tokens=2, running=running)
    while not ask_due(watched.history):
        watched.look(tokens=2, running=running)
    watched.ask()
    assert set(watched.states(11, tokens=2, running=running, completion=WAITING)) <= before
    found = watched.look(tokens=2, running=running, completion=WAITING)
    assert found.state == "wedged"
    assert "/health says 200" in found.why
    assert heal_due(watched.history, found)


def test_without_a_question_standing_still_is_not_wedged() -> None:
    watched = Watched()
    assert "wedged" not in watched.states(100, tokens=1, running=2)


def test_one_movement_begins_the_time_anew() -> None:
    watched = Watched()
    watched.states(2, tokens=1, running=2)
    watched.ask()
    assert "wedged" not in watched.states(11, tokens=1, running=2, completion=WAITING)
    assert "wedged" not in watched.states(12, tokens=2, running=2, completion=WAITING)
    assert watched.look(tokens=2, running=2, completion=WAITING).state == "wedged"


def test_it_goes_on_and_is_idle_again() -> None:
    watched = Watched()
    watched.states(2, tokens=1, running=1)
    watched.ask()
    assert watched.states(13, tokens=1, running=1, completion=WAITING)[-1] == "wedged"
    assert watched.look(tokens=9, completion=ANSWERED).state == "idle"


def test_time_that_nobody_watched_does_not_count() -> None:
    """A laptop that slept for an hour has heard nothing meanwhile, and its first look may fail."""
    watched = Watched()
    watched.states(2, tokens=1, running=2)
    watched.ask()
    after = watched.look(3600, tokens=1, running=2, completion=WAITING, counters=None)
    assert after.state == "slow"
    assert watched.look(3600, tokens=1, running=2, completion=WAITING).state == "slow"


def test_looks_that_found_no_line_do_not_count() -> None:
    watched = Watched()
    watched.states(2, tokens=1, running=2)
    watched.ask()
    for _ in range(100):
        assert watched.look(head_answers=False, unreachable={"gpu-01": "no route"}).state == "unreachable"
        assert watched.look(tokens=1, running=2, completion=WAITING).state == "slow"


def test_failing_completions_count_as_no_answer_and_refused_ones_do_not() -> None:
    for outcome, expected in (("failed", "wedged"), ("refused", "slow"), ("lost", "slow")):
        watched = Watched()
        watched.states(2, tokens=1, running=1)
        state = ""
        for _ in range(30):
            asked = ask_due(watched.history)
            if asked:
                watched.ask()
            answer = Completion(outcome, "500") if asked else None  # type: ignore[arg-type]
            state = watched.look(tokens=1, running=1, completion=answer).state
        assert state == expected, outcome


def test_a_server_that_refuses_is_not_asked_all_the_time() -> None:
    watched, asked = Watched(), 0
    watched.states(2, tokens=1, running=1)
    answer = None
    for _ in range(60):
        watched.look(tokens=1, running=1, completion=answer)
        answer = None
        if ask_due(watched.history):
            watched.ask()
            asked, answer = asked + 1, Completion("refused", "401")
    assert asked <= 6


def test_a_frozen_server_is_wedged_though_its_counters_cannot_be_read() -> None:
    watched = Watched()
    watched.states(2, tokens=1)
    watched.look(health=None, counters=None, reason="timed out")
    watched.ask()
    states = watched.states(13, health=None, counters=None, reason="timed out", completion=WAITING)
    assert (states[0], states[-1]) == ("slow", "wedged")


def test_a_server_that_counts_nothing_is_never_wedged_while_health_answers() -> None:
    watched = Watched()
    watched.look(counters=None)
    watched.ask()
    assert set(watched.states(50, counters=None, completion=WAITING)) == {"slow"}


def test_asleep_is_idle() -> None:
    watched = Watched()
    watched.look()
    asleep = Counters(asleep=True, marks={"tokens": 1})
    assert watched.states(50, counters=asleep) == ["idle"] * 50
    assert not ask_due(watched.history)


def test_dead() -> None:
    assert Watched().look(health=503).why == "the engine is dead: /health answers 503"
    found = Watched().look(broken={"gpu-02": "the ray container exited with code 137"})
    assert (found.state, found.nodes) == ("dead", {"gpu-02": "the ray container exited with code 137"})
    watched = Watched()
    watched.look()
    assert watched.look(server="", missing={"gpu-01": "vLLM has not been started"}).state == "dead"
    watched = Watched()
    watched.look()
    closed = {"health": None, "counters": None, "closed": True, "reason": "Connection refused"}
    assert watched.states(3, **closed) == ["idle", "slow", "dead"]


def test_starting_until_ready_timeout_and_down() -> None:
    watched = Watched()
    loading = {"health": None, "counters": None, "closed": True, "reason": "Connection refused"}
    states = watched.states(70, **loading)
    assert states == ["starting"] * 61 + ["dead"] * 9
    assert not ask_due(watched.history)
    fresh = Watched()
    assert fresh.look(server="", missing={"gpu-01": "vLLM has not been started"}).state == "starting"
    found = Watched().look(wanted=False, server="")
    assert found.state == "down"
    assert not heal_due(History(SETTINGS), found)


def test_a_head_that_cannot_be_reached_is_healed_after_a_while_unless_its_server_answers_others() -> None:
    gone = {"head_answers": False, "unreachable": {"gpu-01": "no route"}, "server": ""}
    for health, expected in ((None, True), (200, False)):
        watched = Watched()
        due = [heal_due(watched.history, watched.look(**gone, health=health)) for _ in range(20)]
        assert due[:12] == [False] * 12
        assert due[-1] is expected


def test_a_worker_that_cannot_be_reached_is_told_and_leads_to_a_question() -> None:
    watched = Watched()
    watched.look(tokens=1)
    watched.look(tokens=2)
    found = watched.look(tokens=2, unreachable={"gpu-02": "no route"})
    assert (found.state, found.nodes) == ("idle", {"gpu-02": "no route"})
    assert ask_due(watched.history)


def test_a_restart_begins_anew() -> None:
    watched = Watched()
    watched.states(2, tokens=1, running=2)
    watched.ask()
    watched.states(11, tokens=1, running=2, completion=WAITING)
    found = watched.look(server="b", health=None, counters=None, closed=True, completion=WAITING)
    assert found.state == "starting"


# --- vLLM's own text ----------------------------------------------------------------------------------


def test_the_counters_of_a_real_server() -> None:
    found = counters(METRICS)
    assert found is not None
    assert (found.running, found.waiting, found.asleep) == (8, 4, False)
    names = {name.split()[0] for name in found.marks}
    assert names == set(MARKS) - {"vllm:gpu_cache_usage_perc"}


def test_every_mark_tells_a_step() -> None:
    for line in METRICS.splitlines():
        name, value = line.rsplit(" ", 1)
        if name.startswith(("vllm:generation_tokens_total", "vllm:kv_cache_usage_perc")):
            moved = METRICS.replace(line, f"{name} {float(value) + 1}")
            assert counters(moved) != counters(METRICS), line


def test_what_the_http_server_counts_is_no_mark() -> None:
    moved = METRICS.replace('reason="max_num_queued_reqs"} 0.0', 'reason="max_num_queued_reqs"} 7.0')
    assert moved != METRICS
    assert counters(moved + 'http_requests_total{handler="/x"} 9.0\n') == counters(METRICS)


def test_a_sleeping_engine_and_texts_that_are_none() -> None:
    asleep = METRICS.replace('sleep_state="awake"} 1.0', 'sleep_state="awake"} 0.0')
    slept = counters(asleep)
    assert slept is not None
    assert slept.asleep
    assert [counters(text) for text in ("", "process_open_fds 3\n", "<html>{", "vllm:x{ 1\n")] == [None] * 4


# --- from facts to an observation -----------------------------------------------------------------------


def look_at(
    changes: dict[str, Facts] | None = None, unreachable: dict[str, str] | None = None
) -> Observation:
    facts = healthy(plan()) | (changes or {})
    facts = {name: fact for name, fact in facts.items() if name not in (unreachable or {})}
    head = facts.get("gpu-01")
    if head is not None and head.scrape is None:
        facts["gpu-01"] = replace(head, scrape=Scrape(200, METRICS))
    return observation(plan(), facts, unreachable or {}, None, 5.0)


def test_an_observation_of_a_healthy_cluster() -> None:
    found = look_at()
    assert (found.health, found.broken, found.missing, found.unreachable) == (200, {}, {}, {})
    assert found.counters == counters(METRICS)
    assert found.server.startswith("serve-gpu-01 2026-")


def test_an_observation_names_what_is_broken_where() -> None:
    facts = healthy(plan())
    killed = container(plan(), plan().member("gpu-02"), "ray", running=False, exit_code=137)
    found = look_at({"gpu-02": replace(facts["gpu-02"], containers=(killed,))})
    assert found.broken == {"gpu-02": "the ray container exited with code 137"}
    found = look_at({"gpu-02": replace(facts["gpu-02"], containers=())})
    assert found.missing == {"gpu-02": "Ray has not been started"}
    found = look_at({"gpu-02": replace(facts["gpu-02"], engine_error="permission denied", containers=())})
    assert (found.unreachable, found.missing) == ({"gpu-02": "docker: permission denied"}, {})
    assert look_at(unreachable={"gpu-01": "no route"}).head_answers is False


def test_what_was_taken_down_and_what_only_lost_its_containers() -> None:
    nothing = {name: replace(fact, containers=()) for name, fact in healthy(plan()).items()}
    assert look_at(nothing).wanted is False
    assert look_at({name: replace(fact, wanted="3") for name, fact in nothing.items()}).wanted is True


@pytest.mark.parametrize(
    ("text", "code", "outcome"),
    [
        ('{"status": 200, "seconds": 0.1, "reason": ""}', 0, "answered"),
        ('{"status": null, "seconds": 9.0, "reason": "timed out"}', 0, "failed"),
        ('{"status": 500, "seconds": 0.1, "reason": "EngineDeadError"}', 0, "failed"),
        ('{"status": 401, "seconds": 0.1, "reason": "Unauthorized"}', 0, "refused"),
        ('{"status": 503, "seconds": 0.1, "reason": "queue is full"}', 0, "refused"),
        ("Error: No such container", 1, "lost"),
        ("python3: can't open file '/clusterctl/on_node/observe.py'", 2, "lost"),
    ],
)
def test_what_became_of_a_question(text: str, code: int, outcome: str) -> None:
    assert completion(Result(code, f"{text}\n", "")).outcome == outcome
