"""Secrets out of what leaves the machine."""

from __future__ import annotations

import re
from collections.abc import Iterable

REDACTED = "[redacted]"
SHORTEST = 4  # a secret of fewer characters would take half of the text with it

# Whose name says that its value is nobody's business: HF_TOKEN=..., "api_key": "...", --api-key ...
# `tokenizer`, `max_tokens` and their like are no secrets.
SECRET_WORD = (
    r"(?:token(?!s|iz)|secret|passw(?:or)?d|passphrase|credential|(?:api|access|auth|private)[_-]?key)"
)
NAME = rf"[\w.-]{{0,60}}{SECRET_WORD}[\w.-]{{0,60}}"
KEY_NAME = r"[A-Z0-9_]{0,60}_?KEY(?:_[A-Z0-9_]{1,60})?"
QUOTE = r"\\{0,2}[\"']"  # inside of JSON inside of a log
LIST = r"\[[^\]\n]{0,4000}\]"  # vLLM logs `'api_key': ['...']`
VALUE = rf"(?:{LIST}|{QUOTE}[^\"'\\\n]{{0,4000}}{QUOTE}|[^\s\"',;}})\]&\\]{{1,4000}})"
PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.{0,20000}?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?i)(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,4000}"), rf"\1{REDACTED}"),
    (re.compile(r"(?i)(\bauthorization\b\\{0,2}[\"']?\s*[:=]\s*)[^\r\n]{1,4000}"), rf"\1{REDACTED}"),
    (re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]{1,20}://)[^\s/@\"']{1,500}@"), rf"\1{REDACTED}@"),
    (re.compile(rf"(?i)(?<![\w.-])((?:{QUOTE})?{NAME}(?:{QUOTE})?\s?[:=]\s?){VALUE}"), rf"\1{REDACTED}"),
    (re.compile(rf"(?i)(--{NAME}[ =]){VALUE}"), rf"\1{REDACTED}"),
    (re.compile(rf"(?<![\w.-])((?:{QUOTE})?{KEY_NAME}(?:{QUOTE})?\s?[:=]\s?){VALUE}"), rf"\1{REDACTED}"),
    (re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{4,200}\b"), REDACTED),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{8,200}"), REDACTED),
    (re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-|nvapi-)[A-Za-z0-9_-]{8,200}"), REDACTED),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), REDACTED),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,2000}\.[A-Za-z0-9_-]{8,4000}(?:\.[A-Za-z0-9_-]{0,2000})?"), REDACTED),
)


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without secrets: those values, and whatever looks like one.

    Tokens of Hugging Face, OpenAI, GitHub, Slack, NVIDIA and AWS, JSON web tokens, Bearer headers, private
    keys, users and passwords in URLs, and the values of what is named like a token, key, secret or password.
    """
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SHORTEST:
            text = text.replace(secret, REDACTED)
    text = PRIVATE_KEY.sub(REDACTED, text)
    for pattern, replacement in PATTERNS:
        text = pattern.sub(replacement, text)
    return text
