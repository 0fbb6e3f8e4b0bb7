"""Steps are what --dry-run prints; secrets are shown nowhere and written whole."""

from __future__ import annotations

import copy
import json
import traceback

import pytest

from cluster.steps import Phase, Put, Result, Run, Secret, Wait

SECRET = Secret("hf_verysecret")


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (Run("gpu-01", ("docker", "rm", "a b")), "gpu-01  docker rm 'a b'"),
        (Run("gpu-01", ("echo", "x; rm -rf /")), "gpu-01  echo 'x; rm -rf /'"),
        (Put("gpu-01", ".clusterctl/x/env", "A=é\n"), "gpu-01  write .clusterctl/x/env (mode 0644, 5 bytes)"),
        (Put("gpu-01", "s", SECRET, 0o600), "gpu-01  write s (mode 0600, 13 bytes)"),
        (
            Wait("gpu-01", ("sh", "x", "nodes"), pending=lambda _: None, timeout=120.0),
            "gpu-01  wait up to 120 s for: sh x nodes",
        ),
    ],
)
def test_a_step_as_text(step: object, text: str) -> None:
    assert str(step) == text


def test_the_nodes_of_a_phase_stand_once_in_order() -> None:
    assert Phase("p", (Run("b", ("x",)), Run("a", ("x",)), Run("b", ("y",)))).nodes == ("b", "a")


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (Result(1, "out\n", "first\nlast\n\n"), "last"),
        (Result(1, "out\n", ""), "out"),
        (Result(1, " \n", ""), "it said nothing"),
    ],
)
def test_the_reason_of_a_result_is_its_last_line(result: Result, reason: str) -> None:
    assert result.reason == reason


SHOWN = [
    str,
    repr,
    "{}".format,
    "{!r}".format,
    "{:>5}".format,
    "{0!s}".format,
    lambda secret: f"{secret}",
    lambda secret: "%s" % secret,  # noqa: UP031
    lambda secret: str([secret]),
    lambda secret: str({"a": secret}),
    lambda secret: repr(Put("n", "p", secret)),
    lambda secret: str(Put("n", "p", secret)),
    lambda secret: repr(copy.deepcopy(secret)),
    lambda secret: "".join(traceback.format_exception_only(ValueError(secret))),
]


@pytest.mark.parametrize("show", SHOWN)
def test_a_secret_is_not_shown(show: object) -> None:
    assert "verysecret" not in show(SECRET)  # type: ignore[operator]


def test_a_secret_is_written_whole() -> None:
    step = Put("n", "p", Secret("HF_TOKEN=" + SECRET + "\n"), 0o600)
    assert step.content.encode() == b"HF_TOKEN=hf_verysecret\n"
    assert json.dumps({"a": SECRET}) == '{"a": "hf_verysecret"}'  # why console.step_json leaves contents out
