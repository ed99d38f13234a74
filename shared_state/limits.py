"""Windows as the scripts understand them: built from the configured limits and the provider's calendar."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final
from zoneinfo import ZoneInfo

from shared_state.config import LimitsConfig

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000

#: A sliding window is kept in this many buckets: it may hold a request back for one bucket longer than needed.
BUCKETS: Final = 120
#: The way from admission to the provider's own clock, covered by keeping a bucket this much longer.
GUARD_MS: Final = 250

Window = tuple[int, str, int, int, int, int, int]


class Algorithm(IntEnum):
    """How a window counts; the numbers are those of ``lua/include/windows.lua``."""

    SLIDING = 1
    CALENDAR = 2
    SPACING = 3
    CONCURRENCY = 4


class Dimension(IntEnum):
    """What a window counts."""

    REQUESTS = 1
    TOKENS = 2
    TOKENS_IN = 3
    TOKENS_OUT = 4
    COST = 5


def _day(local: datetime) -> datetime:
    # The earlier one where a clock set back makes midnight come twice.
    return local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)


def _week(local: datetime) -> datetime:
    return _day(local) - timedelta(days=local.weekday())


def _month(local: datetime) -> datetime:
    return _day(local).replace(day=1)


_CALENDARS: Final[dict[str, tuple[Callable[[datetime], datetime], timedelta]]] = {
    "d": (_day, timedelta(days=1)),
    "w": (_week, timedelta(days=7)),
    "M": (_month, timedelta(days=31)),
}


def calendar_periods(unit: str, timezone: str, now_ms: int) -> tuple[int, int, int]:
    """Start of the period that holds ``now_ms``, its end, and the end of the next one, in unix milliseconds.

    Args:
        unit: ``d``, ``w`` or ``M``.
        timezone: IANA name; a day of 23 or 25 hours comes out as such.
        now_ms: server time.
    """
    floor, step = _CALENDARS[unit]
    zone = ZoneInfo(timezone)
    start = floor(datetime.fromtimestamp(now_ms / 1000, zone).replace(tzinfo=None))
    # Local dates are stepped without a zone and floored again: 31 days from the first always lands in the next month.
    end = floor(start + step)
    after = floor(end + step)
    first, second, third = (
        int(naive.replace(tzinfo=zone).timestamp() * 1000) for naive in (start, end, after)
    )
    return first, second, third


def _sliding(name: str, dimension: Dimension, limit: int, length_ms: int) -> Window:
    return (Algorithm.SLIDING, name, dimension, limit, length_ms, length_ms // BUCKETS, GUARD_MS)


def windows_of(limits: LimitsConfig, now_ms: int) -> list[Window]:
    """The windows of a scope, for the periods around ``now_ms``."""
    windows: list[Window] = []
    for letter, dimension in (("r", Dimension.REQUESTS), ("t", Dimension.TOKENS)):
        for unit, length_ms in (("m", MINUTE_MS), ("h", HOUR_MS)):
            limit = getattr(limits, f"{letter}p{unit}")
            if limit is not None:
                windows.append(_sliding(f"{letter}p{unit}", dimension, limit, length_ms))
        for unit in _CALENDARS:
            limit = getattr(limits, f"{letter}p{unit}")
            if limit is not None:
                periods = calendar_periods(unit, limits.timezone, now_ms)
                windows.append((Algorithm.CALENDAR, f"{letter}p{unit}", dimension, limit, *periods))
    if limits.concurrency is not None:
        windows.append(
            (Algorithm.CONCURRENCY, "concurrency", Dimension.REQUESTS, limits.concurrency, 0, 0, 0)
        )
    if limits.min_delta:
        spacing_ms = max(1, round(limits.min_delta * 1000))
        windows.append((Algorithm.SPACING, "min_delta", Dimension.REQUESTS, 1, spacing_ms, 0, 0))
    return windows


def has_limits(limits: LimitsConfig) -> bool:
    """Whether anything is limited at all."""
    return bool(windows_of(limits, 0))
