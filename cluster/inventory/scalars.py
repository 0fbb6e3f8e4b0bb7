"""The small types of an inventory's values, each with the sentence that refuses a wrong one."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, StrictStr, WithJsonSchema

SHELL_SAFE = "letters, digits, '.', '_' and '-', starting with a letter or digit"


def _matching(pattern: str, expected: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f"expected {expected}, got {value!r}")
        return value

    return AfterValidator(check)


def _address(value: str) -> str:
    if value == "local":
        return value
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError:
        raise ValueError(
            f"expected an IPv4 address or 'local', got {value!r}: Ray and NCCL compare addresses, not names "
            "(a name for SSH alone goes into ssh.host)"
        ) from None


def _auto_or_whole(value: Any) -> int | None:
    """None stands for `auto`."""
    if value == "auto" or value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"expected a whole number or 'auto', got {value!r}")
    if value < 1:
        raise ValueError(f"expected at least 1, got {value}")
    return value


def _env_value(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"expected text or a number, got {value!r} (quote it)")
    text = str(value)
    if any(character in text for character in "\n\r\0"):
        raise ValueError("a value of one line is needed: environment files have one variable a line")
    return text


def _hcas(value: Any) -> Any:
    """`auto` and `none` stay words; a single name becomes a list of one."""
    if isinstance(value, str) and value not in ("auto", "none"):
        return (value,)
    return value


Port = Annotated[StrictInt, Field(ge=1, le=65535)]
Count = Annotated[StrictInt, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, strict=True)]
Bandwidth = Annotated[float, Field(gt=0, strict=True)]
Text = Annotated[StrictStr, _matching(r"[^\0\n\r]+", "one line of text")]
ClusterName = Annotated[
    StrictStr, _matching(r"[a-z0-9][a-z0-9_-]{0,31}", "at most 32 lower-case letters, digits, '_' and '-'")
]
NodeName = Annotated[StrictStr, _matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", SHELL_SAFE)]
DeviceName = Annotated[StrictStr, _matching(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,62}", SHELL_SAFE)]
EnvName = Annotated[StrictStr, _matching(r"[A-Za-z_][A-Za-z0-9_]*", "a name of letters, digits and '_'")]
EnvValue = Annotated[str, BeforeValidator(_env_value), WithJsonSchema({"type": ["string", "number"]})]
Image = Annotated[
    StrictStr,
    _matching(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*", "an image reference such as vllm/vllm-openai:v0.33.0"),
]
Size = Annotated[StrictStr, _matching(r"\d+(\.\d+)?[bkmgBKMG]?", "a size such as 16g")]
Mount = Annotated[
    StrictStr, _matching(r"/[^:,\0\n\r]*:/[^:,\0\n\r]*(:(ro|rw))?", "'/on/the/node:/in/the/container[:ro]'")
]
FlagName = Annotated[
    StrictStr, _matching(r"[A-Za-z][A-Za-z0-9_.-]*", "the name of a vLLM flag, without dashes before it")
]
Address = Annotated[StrictStr, AfterValidator(_address)]
ParallelSize = Annotated[
    int | None,
    BeforeValidator(_auto_or_whole),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}], "default": "auto"}),
]
Hcas = BeforeValidator(_hcas)
