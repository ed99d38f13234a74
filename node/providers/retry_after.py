"""When a provider says that trying again makes sense: every spelling of it, clamped to sane values."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

#: Longer waits than this are taken as this; a provider's typing error must not take a model out for years.
LONGEST_S: Final = 24 * 3600.0

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|μs|ns|s|m|h|d)")
_UNITS_S: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 0.001,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
#: Nobody waits for thirty years: a larger number is a moment in unix time, a very much larger one in milliseconds.
_EPOCH_S: Final = 1e9
_EPOCH_MS: Final = 1e12


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
    return _until(_http_date(text), now_s)


def parse_reset(text: str, *, now_s: float | None = None) -> float | None:
    """Seconds from a reset; None if it is none.

    Understood are ``1s``, ``6m0s``, ``120ms``, a number of seconds, a moment in unix seconds or milliseconds, an RFC 3339 time
    and an HTTP date.
    """
    if not text:
        return None
    duration = _duration(text)
    if duration is not None:
        return duration
    seconds = _number(text)
    return _until(moment_s(text), now_s) if seconds is None else _from_number(seconds, now_s)


@lru_cache(maxsize=512)
def _duration(text: str) -> float | None:
    """The same few durations come with every answer."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        return None
    return _clamp(sum(float(number) * _UNITS_S[unit] for number, unit in parts))


def moment_s(text: str) -> float | None:
    """Unix seconds of an RFC 3339 time or an HTTP date; without a zone it is in UTC. None if it is neither."""
    try:
        at = datetime.fromisoformat(text.strip())
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return _http_date(text)


def _http_date(text: str) -> float | None:
    try:
        at = parsedate_to_datetime(text)
        # HTTP dates are in UTC, also without a zone
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _from_number(number: float, now_s: float | None) -> float | None:
    if number >= _EPOCH_MS:
        return _until(number / 1000, now_s)
    if number >= _EPOCH_S:
        return _until(number, now_s)
    return _clamp(number)


def _until(at_s: float | None, now_s: float | None) -> float | None:
    return None if at_s is None else _clamp(max(0.0, at_s - (time.time() if now_s is None else now_s)))


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _clamp(seconds: float) -> float | None:
    if not seconds >= 0:  # also refuses NaN
        return None
    return min(seconds, LONGEST_S)
