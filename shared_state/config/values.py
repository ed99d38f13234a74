"""Value types of the configuration: durations, sizes, secret text.

Durations become seconds (float), sizes become bytes (int). Both accept plain numbers in those units.
Origins of web pages are written as browsers write them.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, SecretStr

_DURATION_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?I?B)", re.IGNORECASE)

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(?:\[[0-9a-f:.]+\]|[^\s/?#@:\[\]*]+)(?::(\d{1,5}))?")
_OWN_PORTS = {"http": "80", "https": "443"}


def parse_duration(value: Any) -> float:
    """Seconds from ``500ms``, ``30s``, ``5m``, ``24h``, ``7d`` or a number of seconds.

    Raises:
        ValueError: the value is neither, or is negative.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        seconds = float(match[1]) * _DURATION_UNITS_S[match[2]]
    else:
        raise ValueError(f"not a duration: {value!r}; write 500ms, 30s, 5m, 24h or 7d")
    if not 0 <= seconds < 1e9:
        raise ValueError(f"a duration cannot be negative or endless: {value!r}")
    return seconds


def parse_size(value: Any) -> int:
    """Bytes from ``512KB``, ``32MB``, ``1GiB`` or a number of bytes.

    Raises:
        ValueError: the value is neither, or is negative.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        size = int(float(match[1]) * _SIZE_UNITS_BYTES[match[2].upper()])
    else:
        raise ValueError(f"not a size: {value!r}; write 512KB, 32MB or 1GiB")
    if size < 0:
        raise ValueError(f"a size cannot be negative: {value!r}")
    return size


def parse_origin(value: Any) -> str:
    """The origin of web pages as browsers write it: scheme, host, and the port unless it is the scheme's own; or ``*``.

    Raises:
        ValueError: it is none.
    """
    text = value.strip().lower() if isinstance(value, str) else ""
    match = _ORIGIN.fullmatch(text)
    if text != "*" and match is None:
        raise ValueError(f"not an origin: {value!r}; write https://app.example, without a path, or *")
    if match and _OWN_PORTS.get(match[1]) == match[2]:
        return text.removesuffix(f":{match[2]}")
    return text


DurationS = Annotated[float, BeforeValidator(parse_duration)]
SizeBytes = Annotated[int, BeforeValidator(parse_size)]
Origin = Annotated[str, BeforeValidator(parse_origin)]
Secret = SecretStr


class Section(BaseModel):
    """Base of every configuration section: frozen, and closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=False,
        hide_input_in_errors=True,
        defer_build=True,  # the whole configuration is built once, not every section for itself and again in it
    )
