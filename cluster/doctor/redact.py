"""Secrets out of what leaves the machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping

REDACTED = "[redacted]"
SHORTEST = 4  # a secret of fewer characters would take half of the text with it
SHORTEST_BY_NAME = 6  # and what is only named so may be a limit of 2048, or a `true`

# Whose name says that its value is nobody's business: HF_TOKEN=..., "api_key": "...", --api-key ...
# `tokenizer`, `max_tokens` and their like are no secrets, nor is what a `CredentialError` says.
SECRET_WORD = (
    r"(?:token(?!s|iz)|secret|passw(?:or)?d|passphrase|credential|(?:api|access|auth|private)[_-]?key)"
)
LONG_NAME = rf"[\w.-]{{0,60}}{SECRET_WORD}[\w.-]{{0,60}}(?<!Error)(?<!Exception)"
NAME = rf"(?:{LONG_NAME}|(?:[\w.-]{{0,60}}[_.-])?(?:pass|pw)\b)"
KEY_NAME = r"[A-Z0-9_]{0,60}_?KEY(?:_[A-Z0-9_]{1,60})?"
QUOTE = r"\\{0,3}[\"']"  # inside of JSON inside of a log
BLANKS = r"[ \t]{0,40}"
# Whole, or to the end of the line where the quote is never closed.
QUOTED = r"\"(?:[^\"\\\n]|\\.){0,4000}\"?|'(?:[^'\\\n]|\\.){0,4000}'?"
ESCAPED = r"(\\{1,3}[\"'])[^\n]{0,4000}?(?<!\\)\2|\\{1,3}[\"'][^\s\"'\\]{0,4000}"
LIST = r"\[[^\]\n]{0,4000}\]|\[\s{0,200}\n[^\]]{0,4000}\]"  # vLLM logs `'api_key': ['...']`
BARE = r"[^\s\"',;}})\]&\\]{1,4000}"
VALUE = rf"(?:{LIST}|{QUOTED}|{ESCAPED}|{BARE})"  # for patterns with one group before it
YAML_KEY = rf"^([ \t]{{0,80}}(?:-[ \t]+)?{NAME}{BLANKS}:"
YAML_LIST = r"(?:[ \t]{0,80}-[ \t][^\n]{0,4000}(?:\n|\Z)){1,100}"
YAML_BLOCK = rf"{BLANKS}[|>][-+\d]{{0,2}}{BLANKS}\n(?:[ \t][^\n]{{0,4000}}(?:\n|\Z)){{1,100}}"
PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.{0,20000}?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?i)(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,4000}"), rf"\1{REDACTED}"),
    (
        re.compile(
            r"(?i)(\b(?:authorization|cookies?)\b\\{0,3}[\"']?\s*[:=]\s*+)(?!\[redacted\])[^\r\n]{1,4000}"
        ),
        rf"\1{REDACTED}",
    ),
    (re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]{1,20}://)[^\s/@\"']{1,500}@"), rf"\1{REDACTED}@"),
    # Signed addresses of S3, Google and Azure.
    (
        re.compile(r"(?i)(\b(?:x-(?:amz|goog)-signature|(?<=[?&])(?:signature|sig))=)[^\s&\"']{1,4000}"),
        rf"\1{REDACTED}",
    ),
    # The lines of a YAML list or text under such a name, and plain YAML text, which may have blanks.
    (re.compile(rf"(?im){YAML_KEY}{BLANKS}\n){YAML_LIST}"), rf"\1  - {REDACTED}\n"),
    (re.compile(rf"(?im){YAML_KEY}){YAML_BLOCK}"), rf"\1 {REDACTED}\n"),
    (re.compile(rf"(?im){YAML_KEY}[ \t]{{1,40}})(?![\"'\[{{\\|>\s])[^\n]{{1,4000}}"), rf"\1{REDACTED}"),
    (
        re.compile(rf"(?i)(?<![\w.-])((?:{QUOTE})?{NAME}(?:{QUOTE})?{BLANKS}[:=]{BLANKS}){VALUE}"),
        rf"\1{REDACTED}",
    ),
    (re.compile(rf"(?i)((?<!-)--{NAME}(?:[ \t]{{1,40}}|=)){VALUE}"), rf"\1{REDACTED}"),
    # A list of words: ['--api-key', '...'], or one word a line in YAML.
    (re.compile(rf"(?i)((?<!-)--{NAME}{QUOTE}\s{{0,200}},\s{{0,200}}){VALUE}"), rf"\1{REDACTED}"),
    (re.compile(rf"(?i)((?<!-)--{NAME}{BLANKS}\n[ \t]{{0,80}}-[ \t]+){VALUE}"), rf"\1{REDACTED}"),
    # Kubernetes' {"name": "HF_TOKEN", "value": "..."}, as JSON and as YAML.
    (
        re.compile(
            rf"(?i)(\b(?:name|key)(?:{QUOTE})?\s{{0,40}}:\s{{0,40}}(?:{QUOTE})?(?:{NAME}|\w{{0,60}}_key)(?:{QUOTE})?"
            rf"\s{{0,200}},?\s{{0,200}}(?:{QUOTE})?value(?:{QUOTE})?\s{{0,40}}:\s{{0,40}}){VALUE}"
        ),
        rf"\1{REDACTED}",
    ),
    # Docker's config.json
    (re.compile(rf"({QUOTE}auth{QUOTE}\s{{0,40}}:\s{{0,40}}){VALUE}"), rf"\1{REDACTED}"),
    (
        re.compile(rf"(?<![\w.-])((?:{QUOTE})?{KEY_NAME}(?:{QUOTE})?{BLANKS}[:=]{BLANKS}){VALUE}"),
        rf"\1{REDACTED}",
    ),
    (re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{4,200}\b"), REDACTED),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{8,200}"), REDACTED),
    (re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-|nvapi-)[A-Za-z0-9_-]{8,200}"), REDACTED),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), REDACTED),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,2000}\.[A-Za-z0-9_-]{8,4000}(?:\.[A-Za-z0-9_-]{0,2000})?"), REDACTED),
)
NAMED = re.compile(rf"(?i)(?:--)?(?:{NAME})|(?-i:{KEY_NAME})")


def redacted_value(name: str, value: str) -> str:
    """A variable's value, without what is a secret by its form or by the variable's name."""
    return redacted(f"{name}={value}").partition("=")[2]


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without secrets: those values, also as JSON writes them, and whatever looks like one.

    Tokens of Hugging Face, OpenAI, GitHub, Slack, NVIDIA and AWS, JSON web tokens, Bearer headers, cookies,
    signatures of addresses, private keys, users and passwords in URLs, and the values of what is named like
    a token, key, secret or password.
    """
    written = {form for secret in secrets for form in (secret, json.dumps(secret)[1:-1])}
    for secret in sorted(written, key=len, reverse=True):
        if len(secret) >= SHORTEST:
            text = text.replace(secret, REDACTED)
    text = PRIVATE_KEY.sub(REDACTED, text)
    for pattern, replacement in PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def secret_values(content: object, named: bool = False) -> Iterator[str]:
    """The values in a mapping whose names say that they are secret, as text, however deep they lie.

    `named`: what `content` belongs to is named so. A list of words counts too: `--api-key`, then its value.
    """
    if isinstance(content, Mapping):
        for key, value in content.items():
            # {HF_TOKEN: {env: HF_TOKEN}} says where a secret is, and not what it is.
            yield from secret_values(value, NAMED.fullmatch(str(key)) is not None)
    elif isinstance(content, list | tuple):
        for before, value in zip((None, *content), content, strict=False):
            flag = isinstance(before, str) and before.startswith("--") and NAMED.fullmatch(before)
            yield from secret_values(value, named or bool(flag))
    elif named and isinstance(content, str | int) and len(str(content)) >= SHORTEST_BY_NAME:
        yield str(content)
