"""What leaves the machine has no secrets in it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.doctor.redact import REDACTED, redacted, secret_values

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
        ("HF_TOKEN:      hunter2", "hunter2"),
        ("x HF_TOKEN   = hunter2", "hunter2"),
        ("argv ['serve', '--api-key', 'hunter2']", "hunter2"),
        ('cmd: ["--api-key", "hunter2"]', "hunter2"),
        ('["--api-key",\n "hunter2"]', "hunter2"),
        ("args:\n- --api-key\n- hunter2\n", "hunter2"),
        ("api_key:\n  - hunter2\n  - other1\nnext: 1", "hunter2"),
        ("api_key:\n  - hunter2\n  - other1\nnext: 1", "other1"),
        ("api_key: |\n  hunter2\nnext: 1", "hunter2"),
        ('"api_key": [\n  "hunter2"\n]', "hunter2"),
        ('{"name":"HF_TOKEN","value":"hunter2"}', "hunter2"),
        ("- name: WANDB_KEY\n  value: hunter2", "hunter2"),
        ('"token": "hunter2 and more', "hunter2 and more"),
        ("x \"token\": \"with a \\\" quote\"", "quote"),
        ("SMTP_PASS=hunter2", "hunter2"),
        ("REGISTRY_PASS=hunter2", "hunter2"),
        ("curl --pass=hunter2 x", "hunter2"),
        ("user=x pw=hunter2", "hunter2"),
        ('"auths": {"r.local": {"auth": "dXNlcjpwYXNz"}}', "dXNlcjpwYXNz"),
        ("GET https://s3/x?X-Amz-Date=1&X-Amz-Signature=abcdef0123&y=1", "abcdef0123"),
        ("header X-Amz-Signature=abcdef0123", "abcdef0123"),
        ("https://x.blob.core.windows.net/a?sv=1&sig=abcdef0123", "abcdef0123"),
        ("Set-Cookie: session=abcdef; Path=/", "abcdef"),
        ("{'cookie': 'a=b; c=abcdef'}", "abcdef"),
        ("password: several words of it", "words of it"),
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


def test_a_secret_with_quotes_is_gone_from_json_too() -> None:
    secret = 'pa"ss\\wörd'
    for line in (f"x {secret} y", json.dumps({"said": f"x {secret} y"})):
        assert redacted(line, [secret]).count(REDACTED) == 1
        assert "rd y" not in redacted(line, [secret])


def test_what_was_redacted_before_it_became_json_stays_json() -> None:
    for said in ("Cookie: a=b; c=d", "Authorization: Bearer abcdef0", '"token": "x', "HF_TOKEN=x y"):
        written = json.dumps({"evidence": [redacted(said)], "next": 1})
        assert json.loads(redacted(written)) == json.loads(written)


def test_values_are_secret_by_their_names() -> None:
    content = {
        "cluster": "demo",
        "secrets": {"HF_TOKEN": {"env": "HF_TOKEN"}},
        "serve": {"args": {"api-key": ["first value", 123456], "tokenizer": "x", "long_token_limit": 2048}},
        "nodes": [{"env": {"SMTP_PASS": "plainly"}, "args": ["--api-key", "second", "third"]}],
    }
    assert list(secret_values(content)) == ["first value", "123456", "plainly", "second"]


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
        "botocore.exceptions.NoCredentialsError: Unable to locate credentials",
        "bypass: yes, compass: 3",
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
