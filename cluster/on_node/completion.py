"""Ask a vLLM server for a real completion: the only proof that it serves.

    python3 completion.py --url http://HOST:8000 --model NAME [--prompt ...] [--max-tokens N] [--timeout S]

    {"model": "llama", "answer": " Paris.", "seconds": 0.41}

/health is no proof: it answers 200 as long as nobody has noticed that the engine is dead. Exits with 1 and a
one-line reason if there is no answer. The API key comes from VLLM_API_KEY, because argv is visible to every
user of the node.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

PROMPT = "The capital of France is"
LONGEST_REASON = 500


class NoAnswer(Exception):
    """Why there is no completion, in one line."""


def main() -> None:
    arguments = parse_arguments()
    started = time.monotonic()
    try:
        reply = post(
            f"{arguments.url.rstrip('/')}/v1/completions",
            {
                "model": arguments.model,
                "prompt": arguments.prompt,
                "max_tokens": arguments.max_tokens,
                "temperature": 0,
            },
            arguments.timeout,
        )
        answer = answer_in(reply)
    except NoAnswer as error:
        sys.exit(str(error))
    seconds = round(time.monotonic() - started, 3)
    print(json.dumps({"model": reply.get("model", arguments.model), "answer": answer, "seconds": seconds}))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Ask a vLLM server for a completion.")
    parser.add_argument("--url", required=True, help="http://HOST:PORT of the server")
    parser.add_argument("--model", required=True, help="the name under which the model is served")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds without a byte from the server")
    return parser.parse_args()


def post(
    url: str, body: Mapping[str, Any], timeout: float, environ: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), headers(environ), method="POST")
    # An empty ProxyHandler: urllib would send requests for 10.x addresses to the http_proxy of the
    # environment.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as response:
            return parsed(url, response.read())
    except urllib.error.HTTPError as error:
        raise NoAnswer(f"{url} answered {error.code}: {message_in(error.read()) or error.reason}") from None
    except urllib.error.URLError as error:
        raise NoAnswer(f"{url}: {one_line(error.reason)}") from None
    # A timeout or a reset while reading, something that does not speak HTTP, a URL that is none.
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswer(f"{url}: {one_line(error)}") from None


def headers(environ: Mapping[str, str]) -> dict[str, str]:
    key = environ.get("VLLM_API_KEY")
    authorization = {"Authorization": f"Bearer {key}"} if key else {}
    return {"Content-Type": "application/json", **authorization}


def parsed(url: str, body: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(body)
    except ValueError:
        raise NoAnswer(f"{url} answered something that is not JSON: {one_line(body[:80])}") from None
    if not isinstance(reply, dict):
        raise NoAnswer(f"{url} answered JSON that is not an object: {one_line(body[:80])}")
    return reply


def answer_in(reply: Mapping[str, Any]) -> str:
    try:
        answer = reply["choices"][0]["text"]
    except (KeyError, IndexError, TypeError):
        raise NoAnswer(f"the answer has no completion in it: {one_line(reply)}") from None
    if not isinstance(answer, str) or not answer.strip():
        raise NoAnswer("the completion is empty")
    return answer


def message_in(body: bytes) -> str:
    """What an error says: OpenAI's and vLLM's shape, FastAPI's, or the plain text of anything else."""
    try:
        reply = json.loads(body)
    except ValueError:
        return one_line(body.decode(errors="replace"))
    if not isinstance(reply, dict):
        return one_line(reply)
    error = reply.get("error")
    inner = error.get("message") if isinstance(error, dict) else error
    return one_line(inner or reply.get("message") or reply.get("detail") or reply)


def one_line(value: object) -> str:
    return " ".join(str(value).split())[:LONGEST_REASON]


if __name__ == "__main__":
    main()
