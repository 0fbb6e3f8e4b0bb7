"""The program that asks for a real completion."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from cluster.on_node import completion

KEY = "not-for-argv"


class VllmLike(BaseHTTPRequestHandler):
    """Answers as vLLM does, as far as the program can tell."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {KEY}":
            self.answer(401, {"error": "Unauthorized"})
        elif request["model"] != "smol":
            self.answer(404, {"error": {"message": "The model `x` does not exist.", "code": 404}})
        else:
            assert request["temperature"] == 0
            self.answer(200, {"model": "smol", "choices": [{"text": " Paris."}]})

    def answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Not on the terminal."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), VllmLike)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def ask(url: str, model: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # A proxy that does not exist: the program must not use it.
    return subprocess.run(
        [sys.executable, "-S", completion.__file__, "--url", url, "--model", model],
        env={"http_proxy": "http://127.0.0.1:1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_prints_the_answer(url: str) -> None:
    done = ask(url, "smol", VLLM_API_KEY=KEY)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["model"], answer["answer"]) == (0, "smol", " Paris.")
    assert answer["seconds"] >= 0


def test_an_unknown_model_is_one_line(url: str) -> None:
    done = ask(url, "x", VLLM_API_KEY=KEY)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{url}/v1/completions answered 404: The model `x` does not exist.\n"


def test_a_missing_key_is_one_line(url: str) -> None:
    done = ask(url, "smol")
    assert (done.returncode, done.stderr) == (1, f"{url}/v1/completions answered 401: Unauthorized\n")


def test_nobody_listening_is_one_line() -> None:
    done = ask("http://127.0.0.1:1", "smol")
    assert done.returncode == 1
    assert done.stderr == "http://127.0.0.1:1/v1/completions: [Errno 111] Connection refused\n"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "too\\nlong", "type": "x"}}', "too long"),
        (b'{"error": "Unauthorized"}', "Unauthorized"),
        (b'{"object": "error", "message": "old vLLM"}', "old vLLM"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b"<html>\n502</html>", "<html> 502</html>"),
        (b"", ""),
    ],
)
def test_the_message_in_an_error(body: bytes, message: str) -> None:
    assert completion.message_in(body) == message


@pytest.mark.parametrize("reply", [{}, {"choices": []}, {"choices": [{"text": "  "}]}, {"choices": [{}]}])
def test_an_answer_without_text_is_none(reply: dict[str, Any]) -> None:
    with pytest.raises(completion.NoAnswer):
        completion.answer_in(reply)
