"""The program that looks at a server, and the whole chain of judgement over real HTTP."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from samples import healthy, plan

from cluster.facts.service import parse_scrape
from cluster.liveness import (
    Completion,
    History,
    Liveness,
    Settings,
    ask_due,
    completion,
    judge,
    observation,
)
from cluster.on_node import observe
from cluster.steps import Result

KEY = "not-for-argv"
SETTINGS = Settings(interval=10.0, wedged_after=60.0, ready_timeout=600.0)


class VllmLike(ThreadingHTTPServer):
    """/health is always 200. `frozen`: counters stand still and completions hang."""

    daemon_threads = True

    def __init__(self) -> None:
        self.tokens, self.scrapes, self.frozen, self.slow = 0, 0, False, False
        self.let_go = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: VllmLike

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer(200, "")
            return
        server = self.server
        server.scrapes += 1
        if server.slow and server.scrapes % 3 == 0:
            server.tokens += 1
        running = 1 if server.slow else 0
        labels = '{engine="0",model_name="smol"}'
        self.answer(
            200,
            "# TYPE vllm:generation_tokens counter\n"
            f"vllm:generation_tokens_total{labels} {server.tokens}.0\n"
            f"vllm:generation_tokens_created{labels} {server.scrapes}.0\n"
            f"vllm:num_requests_running{labels} {running}.0\n"
            f'vllm:e2e_request_latency_seconds_bucket{{le="+Inf"}} {server.scrapes}.0\n'
            f'http_requests_total{{handler="/x"}} {server.scrapes}.0\n',
        )

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert (request["max_tokens"], self.path) == (1, "/v1/completions")
        if request["model"] != "smol":
            self.answer(404, '{"error": {"message": "The model `x` does not exist.", "code": 404}}')
        elif self.headers["Authorization"] != f"Bearer {KEY}":
            self.answer(401, '{"error": "Unauthorized"}')
        else:
            if self.server.frozen or self.server.slow:
                self.server.let_go.wait(60)
            self.server.tokens += 1
            with contextlib.suppress(BrokenPipeError):  # it hung for longer than was waited for
                self.answer(200, '{"choices": [{"text": ""}]}')

    def answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Not on the terminal."""


@pytest.fixture
def server() -> Iterator[VllmLike]:
    found = VllmLike()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.let_go.set()
    found.shutdown()
    thread.join()
    found.server_close()


def run(*argv: str) -> Result:
    # A proxy that does not exist: the program must not use it.
    done = subprocess.run(
        [sys.executable, "-S", observe.__file__, *argv],
        env={"http_proxy": "http://127.0.0.1:1", "VLLM_API_KEY": KEY},
        capture_output=True,
        text=True,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def test_a_look_brings_vllms_own_lines_without_buckets(server: VllmLike) -> None:
    found = json.loads(run(server.url).stdout)
    assert (found["health"], found["reason"]) == (200, "")
    names = [line.partition("{")[0] for line in found["metrics"].splitlines()]
    assert names == ["vllm:generation_tokens_total", "vllm:num_requests_running"]


def test_an_empty_token_is_an_answer(server: VllmLike) -> None:
    found = json.loads(run(server.url, "--ask", "smol").stdout)
    assert (found["status"], found["reason"]) == (200, "")


def test_who_does_not_answer_is_said_in_one_line(server: VllmLike) -> None:
    nobody = json.loads(run("http://127.0.0.1:1").stdout)
    assert (nobody["health"], nobody["metrics"]) == (None, None)
    assert nobody["reason"] == "http://127.0.0.1:1/health: [Errno 111] Connection refused"
    unknown = json.loads(run(server.url, "--ask", "x").stdout)
    assert unknown["status"] == 404
    assert unknown["reason"].endswith("answered 404: The model `x` does not exist.")
    server.frozen = True
    hangs = json.loads(run(server.url, "--ask", "smol", "--wait", "0.2").stdout)
    assert (hangs["status"], hangs["reason"].endswith("timed out")) == (None, True)


# --- the whole chain -----------------------------------------------------------------------------------


class Question:
    """One token, asked for by a thread of its own."""

    def __init__(self, url: str) -> None:
        self.said = ""
        self.thread = threading.Thread(target=self._ask, args=(url,), daemon=True)
        self.thread.start()

    def _ask(self, url: str) -> None:
        self.said = json.dumps(observe.ask(url, "smol", 30))

    @property
    def outcome(self) -> Completion:
        """An answer at once is waited for; a server that hangs has the test wait for a moment only."""
        self.thread.join(0.05)
        return Completion("waiting") if self.thread.is_alive() else completion(Result(0, self.said, ""))


def watched(server: VllmLike, looks: int) -> list[Liveness]:
    """The real program over real HTTP, its real parsers, the real judgement; the clock is the test's own."""
    history, question, found = History(SETTINGS), None, list[Liveness]()
    for number in range(looks):
        facts = healthy(plan())
        scrape = parse_scrape(Result(0, json.dumps(observe.look(server.url)), ""))["scrape"]
        facts["gpu-01"] = replace(facts["gpu-01"], scrape=scrape)
        answer = None if question is None else question.outcome
        history = history.seen(observation(plan(), facts, {}, answer, number * SETTINGS.interval))
        found.append(judge(history))
        question = question if answer is not None and answer.outcome == "waiting" else None
        if question is None and ask_due(history):
            history, question = history.question(), Question(server.url)
    return found


def test_a_frozen_counter_behind_a_healthy_health_is_wedged(
    server: VllmLike, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    before = watched(server, 4)
    assert {found.state for found in before} == {"idle"}
    server.frozen = True
    states = [found.state for found in watched(server, 14)]
    assert states[-1] == "wedged"
    assert states.index("wedged") >= SETTINGS.wedged_after / SETTINGS.interval


def test_a_slow_one_is_not(server: VllmLike, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question hangs all the while, and a token comes every third look."""
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    server.slow = True
    states = {found.state for found in watched(server, 30)}
    assert states == {"busy", "slow"}
