"""When a provider says that trying again makes sense: every spelling of it, clamped to sane values."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

#: Longer waits than this are taken as this; a provider's typing error must not take a model out for years.
LONGEST_S: Final = 24 * 3600.0

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_retry_after(headers: Mapping[str, str], *, now_s: float | None = None) -> float | None:
    """Seconds to wait, from ``retry-after-ms`` or ``retry-after`` (seconds, fraction or HTTP date); None if absent or absurd."""
    millis = _number(headers.get("retry-after-ms"))
    if millis is not None:
        return _clamp(millis / 1000)
    text = headers.get("retry-after")
    if text is None:
        return None
    seconds = _number(text)
    if seconds is not None:
        return _clamp(seconds)
    try:
        at = parsedate_to_datetime(text)
        at_s = (
            at if at.tzinfo else at.replace(tzinfo=UTC)
        ).timestamp()  # HTTP dates are in UTC, also without a zone
    except (ValueError, TypeError, OverflowError):
        return None
    return _clamp(max(0.0, at_s - (time.time() if now_s is None else now_s)))


def parse_reset(text: str) -> float | None:
    """Seconds from a reset such as ``1s``, ``6m0s``, ``120ms`` or a plain number; None if it is none of these."""
    seconds = _number(text)
    if seconds is not None:
        return _clamp(seconds)
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        return None
    return _clamp(sum(float(number) * _UNITS_S[unit] for number, unit in parts))


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _clamp(seconds: float) -> float | None:
    if not seconds >= 0:  # also refuses NaN
        return None
    return min(seconds, LONGEST_S)
