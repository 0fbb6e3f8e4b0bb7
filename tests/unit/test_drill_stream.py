"""The steady stream of requests: each is counted once, a silent server holds none back, and it ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from samples import GOOD

from cluster import requesting
from cluster.connection import LocalConnection
from cluster.errors import ConnectionLost
from cluster.inventory import parse
from cluster.plan import Plan, make_plan
from cluster.requesting import Stream, from_here, requests, through_the_head
from cluster.steps import Result


class Server(BaseHTTPRequestHandler):
    """A vLLM of one word; `status` is what it answers with."""

    status: ClassVar[int] = 200
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((body["model"], self.headers["Authorization"]))
        answer = json.dumps({"choices": [{"text": " Paris"}]} if self.status == 200 else {"error": "gone"})
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def plan() -> Iterator[Plan]:
    """Of a server on this machine."""
    Server.asked.clear()
    Server.status = 200
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        found = make_plan(parse(GOOD, "test.yaml"))
        here = {"host": "127.0.0.1", "port": server.server_port}
        yield replace(found, serve=found.serve.model_copy(update=here))
        server.shutdown()
        thread.join()


def test_a_request_is_a_real_completion_with_the_key(plan: Plan) -> None:
    assert from_here(lambda: plan, {"VLLM_API_KEY": "sesame"})() == ""
    assert from_here(lambda: plan, {})() == ""
    assert Server.asked == [("llama", "Bearer sesame"), ("llama", None)]


def test_what_is_no_answer_is_lost(plan: Plan) -> None:
    Server.status = 500
    assert "answered 500: gone" in from_here(lambda: plan, {})()
    nobody = replace(plan, serve=plan.serve.model_copy(update={"port": 9}))
    assert "Connection refused" in from_here(lambda: nobody, {})()


class Head(LocalConnection):
    """Answers by what a test says."""

    def __init__(self, answer: Callable[[], Result]) -> None:
        super().__init__()
        self.answer = answer

    def run(self, *_: object, **__: object) -> Result:
        return self.answer()


def broken() -> Result:
    raise ConnectionLost("the line broke")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (Head(lambda: Result(0, '{"status": 200, "seconds": 0.1, "reason": ""}\n', "")), ""),
        (Head(lambda: Result(0, '{"status": 500, "seconds": 0.1, "reason": "it died"}\n', "")), "it died"),
        (Head(broken), "the line broke"),
        (None, "gpu-01 cannot be reached"),
    ],
)
def test_through_the_head(plan: Plan, line: Head | None, said: str) -> None:
    assert said in (found := through_the_head(lambda: plan, lambda _: line)())
    assert bool(said) == bool(found)


def test_a_silent_server_holds_no_request_back() -> None:
    """Ten are under way before one has ended; none is counted before, and each once."""
    under_way, answer = threading.Semaphore(0), threading.Event()

    def ask() -> str:
        under_way.release()
        answer.wait()
        return "no answer"

    stream = Stream(ask, rate=1000)
    for _ in range(10):
        assert under_way.acquire(timeout=20)
    assert stream.requests == ()
    answer.set()
    stream.end()
    assert len(stream.requests) >= 10
    assert {request.lost for request in stream.requests} == {"no answer"}
    assert all(request.sent <= request.ended for request in stream.requests)


def test_it_ends_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requesting, "RATE", 1000.0)
    asked = threading.Event()
    with requests(lambda: asked.set() or "") as stream:
        assert asked.wait(20)
    assert not [thread for thread in threading.enumerate() if thread is stream._clock]
