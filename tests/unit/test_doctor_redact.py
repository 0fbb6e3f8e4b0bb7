"""What leaves the machine has no secrets in it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.doctor.redact import REDACTED, redacted

# In pieces, so that scanners of repositories do not take them for real ones.
HF = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ012345"
OPENAI = "sk-" + "proj-abcDEF0123456789abcdef"
AWS = "AKIA" + "IOSFODNN7EXAMPLE"
JWT = "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NSJ9" + ".c2lnbmF0dXJl"
KEY = (
    "-----BEGIN OPENSSH PRIVATE "
    + "KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\nAAAA\n-----END OPENSSH PRIVATE "
    + "KEY-----"
)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"using {HF} to log in", HF),
        (f"HF_TOKEN={HF}", HF),
        (f"export HF_TOKEN='{HF}'", HF),
        ("HF_TOKEN=plainvalue next", "plainvalue"),
        ("MY_SECRET_THING: topsecret", "topsecret"),
        ("'DB_PASSWORD': 'pass word with spaces'", "pass word with spaces"),
        ('{"api_key": "abc123"}', "abc123"),
        ('{\\"api_key\\": \\"abc123\\"}', "abc123"),
        ("--api-key abc123", "abc123"),
        ("--api-key=abc123", "abc123"),
        ("args: api_key=['abc123x']", "abc123x"),
        ("VLLM_API_KEY=abc123", "abc123"),
        ("WANDB_KEY=abc123", "abc123"),
        (f"Authorization: Bearer {OPENAI}", OPENAI),
        ("authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ('curl -H "Authorization: Token abc123"', "abc123"),
        (f"key {OPENAI}.", OPENAI),
        (f"id {AWS} used", AWS),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG", "wJalrXUtnFEMI/K7MDENG"),
        (f"session {JWT}", JWT),
        ("https://user:pa55word@registry.local/v2/", "pa55word"),
        ("http_proxy=http://bob:hunter2@10.1.1.1:3128", "hunter2"),
        ("redis://:hunter2@10.1.1.1:6379", "hunter2"),
        ("https://oauth2token@github.com/x", "oauth2token"),
        (f"before\n{KEY}\nafter", "b3BlbnNzaC1rZXktdjE"),
        ("-----BEGIN RSA PRIVATE " + "KEY-----\nMIIEowIBAAKC cut off", "MIIEowIBAAKC"),
        ("password: hunter2", "hunter2"),
        ("passwd=hunter2;user=x", "hunter2"),
    ],
)  # fmt: skip
def test_a_secret_is_gone(text: str, secret: str) -> None:
    cleaned = redacted(text)
    assert secret not in cleaned
    assert REDACTED in cleaned


def test_the_inventorys_secrets_are_gone_wherever_they_stand() -> None:
    assert redacted("a verysecret b", ["verysecret"]) == f"a {REDACTED} b"
    assert "longer" not in redacted("x-longersecret", ["secret", "longersecret"])
    assert redacted("the end", ["e", ""]) == "the end"


@pytest.mark.parametrize(
    "text",
    [
        "GPU KV cache size: 643,232 tokens, Maximum concurrency for 40,960 tokens per request: 15.70x",
        "max_num_batched_tokens=2048, tokenizer='/models/llama', tokenizer_mode=auto, max_tokens: 12",
        "(EngineCore pid=1) ERROR 11-21 07:20:36 [core.py:1510] ValueError: x",
        "KeyError: 'model_type'",
        "store->get('0') by key '0' got error",
        "gpu-01:4211:4390 [0] NCCL WARN Connect to 10.0.0.2<45763> failed : No route to host",
        "http://10.0.0.11:8000/v1/completions",
        "git@github.com:x/y.git",
        "ssh ops@10.0.0.2",
        "Loading safetensors checkpoint shards: 100% 4/4",
    ],
)
def test_what_a_reader_needs_stays(text: str) -> None:
    assert redacted(text) == text


@given(st.text(max_size=500))
def test_any_text_is_read_and_twice_is_once(text: str) -> None:
    once = redacted(text, ["abcdefgh"])
    assert "abcdefgh" not in once
    assert redacted(once, ["abcdefgh"]) == once


@given(
    st.from_regex(r"[A-Za-z0-9/+]{12,40}", fullmatch=True),
    st.sampled_from(["HF_TOKEN", "x.api-key", "Db_Password"]),
)
def test_the_value_of_what_is_named_like_a_secret_is_gone(value: str, name: str) -> None:
    for text in (
        f"{name}={value}",
        f"{name}: {value}",
        json.dumps({name: value}),
        json.dumps(json.dumps({name: value})),
    ):
        assert value not in redacted(text)
