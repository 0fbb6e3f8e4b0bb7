"""Look at a vLLM server from beside it, as one JSON object on stdout.

    python3 observe.py http://HOST:8000
    {"health": 200, "metrics": "vllm:num_requests_running{...} 0.0\\n...", "reason": ""}

    python3 observe.py http://HOST:8000 --ask MODEL [--wait SECONDS]
    {"status": 200, "seconds": 0.08, "reason": ""}

`health` and `status` are HTTP status codes, null where there was no answer, and `reason` says why. `metrics`
are vLLM's own lines of /metrics without the buckets of its histograms, null where it was not to be had. A
completion of one token counts by its status alone: a model may well begin with an empty token. The API key
comes from VLLM_API_KEY, because argv is visible to every user of the node.
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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from .completion import PROMPT, headers, message_in, one_line
else:  # as a program on a node
    sys.dont_write_bytecode = True  # nothing is left beside it
    from completion import PROMPT, headers, message_in, one_line

LOOK_S = 5.0
MOST_BYTES = 8 * 1024 * 1024


def main() -> None:
    arguments = parse_arguments()
    url = arguments.url.rstrip("/")
    print(json.dumps(ask(url, arguments.ask, arguments.wait) if arguments.ask else look(url)))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Look at a vLLM server, or ask it for one token.")
    parser.add_argument("url", help="http://HOST:PORT of the server")
    parser.add_argument("--ask", metavar="MODEL", help="ask this model for a completion of one token")
    parser.add_argument("--wait", type=float, default=60.0, help="seconds without a byte from the server")
    return parser.parse_args()


def look(url: str) -> dict[str, Any]:
    health, _, reason = fetch(f"{url}/health", LOOK_S)
    status, body, why_not = fetch(f"{url}/metrics", LOOK_S)
    metrics = own_lines(body) if status == 200 else None
    return {"health": health, "metrics": metrics, "reason": reason or why_not}


def ask(url: str, model: str, wait: float) -> dict[str, Any]:
    question = {"model": model, "prompt": PROMPT, "max_tokens": 1, "temperature": 0}
    started = time.monotonic()
    status, _, reason = fetch(f"{url}/v1/completions", wait, json.dumps(question).encode())
    return {"status": status, "seconds": round(time.monotonic() - started, 3), "reason": reason}


def fetch(url: str, timeout: float, body: bytes | None = None) -> tuple[int | None, str, str]:
    """(HTTP status, text, why it is not 200); no status where no answer came within `timeout` seconds."""
    method = "GET" if body is None else "POST"
    # An empty ProxyHandler: urllib would send requests for 10.x addresses to the http_proxy of the
    # environment.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        request = urllib.request.Request(url, body, headers(os.environ), method=method)
        with opener.open(request, timeout=timeout) as response:
            return response.status, response.read(MOST_BYTES).decode(errors="replace"), ""
    except urllib.error.HTTPError as error:
        return error.code, "", f"{url} answered {error.code}: {message_in(error.read()) or error.reason}"
    except urllib.error.URLError as error:
        return None, "", f"{url}: {one_line(error.reason)}"
    # A timeout or a reset while reading, something that does not speak HTTP, a URL that is none.
    except (OSError, http.client.HTTPException, ValueError) as error:
        return None, "", f"{url}: {one_line(error)}"


def own_lines(text: str) -> str:
    """vLLM's samples: 7 KB and not 50."""
    lines = (line for line in text.splitlines() if line.startswith("vllm:"))
    names = ((line.partition("{")[0].partition(" ")[0], line) for line in lines)
    return "".join(line + "\n" for name, line in names if not name.endswith(("_bucket", "_created")))


if __name__ == "__main__":
    main()
