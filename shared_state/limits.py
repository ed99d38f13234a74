"""Windows as the scripts understand them: built from the configured limits and the provider's calendar."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Final
from zoneinfo import ZoneInfo

from shared_state.config import LimitsConfig
from shared_state.config.limits import COUNTING, Cap, caps_of

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000

#: A sliding window is kept in this many buckets: it may hold a request back for one bucket longer than needed.
BUCKETS: Final = 120
#: The way from admission to the provider's own clock, covered by keeping a bucket this much longer.
GUARD_MS: Final = 250

_TWO_DAYS_MS: Final = 48 * HOUR_MS

Window = tuple[int, str, int, int, int, int, int, int]

_NANO_PER_USD: Final = 10**9
#: In place of a limit: the window refuses nothing.
_COUNTS_ONLY: Final = 0


class Algorithm(IntEnum):
    """How a window counts; the numbers are those of ``lua/include/windows.lua``."""

    SLIDING = 1
    CALENDAR = 2
    SPACING = 3
    CONCURRENCY = 4
    TOKEN_BUCKET = 5
    CAP = 6


class Dimension(IntEnum):
    """What a window counts."""

    REQUESTS = 1
    TOKENS = 2
    TOKENS_IN = 3
    TOKENS_OUT = 4
    COST = 5


_COUNTS: Final = {
    "r": Dimension.REQUESTS,
    "t": Dimension.TOKENS,
    "it": Dimension.TOKENS_IN,
    "ot": Dimension.TOKENS_OUT,
}
#: Length of a rolling window, in ms; a rolling month has 30 days.
_LENGTHS_MS: Final = {
    "m": MINUTE_MS,
    "h": HOUR_MS,
    "d": 24 * HOUR_MS,
    "w": 7 * 24 * HOUR_MS,
    "M": 30 * 24 * HOUR_MS,
}
#: A step that always leads from the beginning of a period into the next one.
_STEPS: Final = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(days=7),
    "M": timedelta(days=31),
}


def _floor(unit: str, local: datetime) -> datetime:
    """The beginning of the period that holds a local time, in a calendar whose days begin at midnight and months at the first."""
    if unit == "m":
        return local.replace(second=0, microsecond=0)
    if unit == "h":
        return local.replace(minute=0, second=0, microsecond=0)
    # The earlier one where a clock set back makes midnight come twice.
    day = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if unit == "w":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if unit == "M" else day


def calendar_periods(
    unit: str, timezone: str, now_ms: int, *, reset_hour: int = 0, reset_day: int = 1
) -> tuple[int, int, int]:
    """Start of the period that holds ``now_ms``, its end, and the end of the next one, in unix milliseconds.

    Args:
        unit: ``m``, ``h``, ``d``, ``w`` or ``M``.
        timezone: IANA name; a day of 23 or 25 hours comes out as such.
        now_ms: server time.
        reset_hour: local hour at which days, weeks and months begin.
        reset_day: day at which months begin.
    """
    zone = ZoneInfo(timezone)
    shift = timedelta(hours=reset_hour if unit in "dwM" else 0, days=reset_day - 1 if unit == "M" else 0)
    local = datetime.fromtimestamp(now_ms / 1000, zone)
    # An hour or minute is the same length everywhere; only longer periods are stepped on the local calendar, without a zone.
    if unit in "mh":
        offset = local.utcoffset() or timedelta()
        start = _floor(unit, local.replace(tzinfo=None)) - offset
        moments = [start, start + _STEPS[unit], start + 2 * _STEPS[unit]]
        return _three(int(moment.replace(tzinfo=UTC).timestamp() * 1000) for moment in moments)
    start = _floor(unit, local.replace(tzinfo=None) - shift)
    end = _floor(unit, start + _STEPS[unit])
    after = _floor(unit, end + _STEPS[unit])
    return _three(
        int((naive + shift).replace(tzinfo=zone).timestamp() * 1000) for naive in (start, end, after)
    )


def _three(values: Iterable[int]) -> tuple[int, int, int]:
    first, second, third = values
    return first, second, third


def _default_algorithm(period: str) -> str:
    return "sliding" if period in "mh" else "calendar"


def _window(limits: LimitsConfig, name: str, limit: int, now_ms: int) -> Window:
    what, _, period = name.partition("p")
    dimension = _COUNTS[what]
    algorithm = limits.algorithms.get(name) or _default_algorithm(period)
    length_ms = _LENGTHS_MS[period]
    if algorithm == "sliding":
        return (Algorithm.SLIDING, name, dimension, limit, length_ms, length_ms // BUCKETS, GUARD_MS, 0)
    if algorithm == "token_bucket":
        return (Algorithm.TOKEN_BUCKET, name, dimension, limit, length_ms, 0, 0, 0)
    periods = calendar_periods(
        period, limits.timezone, now_ms, reset_hour=limits.reset_hour, reset_day=limits.reset_day
    )
    return (Algorithm.CALENDAR, name, dimension, limit, *periods, 0)


def _money(limits: LimitsConfig, now_ms: int) -> list[Window]:
    windows: list[Window] = []
    if limits.usd_per_request is not None:
        most = round(limits.usd_per_request * _NANO_PER_USD)
        windows.append((Algorithm.CAP, "usd_per_request", Dimension.COST, most, 0, 0, 0, 0))
    for name, period in (("usd_per_day", "d"), ("usd_per_month", "M")):
        usd: float | None = getattr(limits, name)
        if usd is not None:
            most = round(usd * _NANO_PER_USD)
            periods = calendar_periods(
                period, limits.timezone, now_ms, reset_hour=limits.reset_hour, reset_day=limits.reset_day
            )
            alert = round(most * limits.alert_threshold)
            refused_at = most if limits.usd_enforced else _COUNTS_ONLY
            windows.append((Algorithm.CALENDAR, name, Dimension.COST, refused_at, *periods, alert))
    return windows


#: Of each reason: what its cap counts, and the units in a whole.
_CAPPED: Final = {
    "budget_exceeded": (Dimension.COST, _NANO_PER_USD),
    "token_limit": (Dimension.TOKENS, 1),
    "request_limit": (Dimension.REQUESTS, 1),
}
#: In place of an alert: when the window is full its model rests, until the period ends or until an operator brings it back.
_RESTS, _RESTS_UNTIL_ORDERED = -1, -2


def _cap(cap: Cap, now_ms: int) -> Window:
    dimension, units = _CAPPED[cap.reason]
    periods = calendar_periods(
        cap.period, cap.timezone, now_ms, reset_hour=cap.reset_hour, reset_day=cap.reset_day
    )
    rest = _RESTS if cap.returns else _RESTS_UNTIL_ORDERED
    return (Algorithm.CALENDAR, cap.reason, dimension, round(cap.most * units), *periods, rest)


def windows_of(limits: LimitsConfig, now_ms: int) -> list[Window]:
    """The windows of a scope, for the periods around ``now_ms``."""
    windows = [
        _window(limits, name, limit, now_ms)
        for name in COUNTING
        if (limit := getattr(limits, name)) is not None
    ]
    windows += _money(limits, now_ms)
    windows += [_cap(cap, now_ms) for cap in caps_of(limits)]
    if limits.concurrency is not None:
        windows.append(
            (Algorithm.CONCURRENCY, "concurrency", Dimension.REQUESTS, limits.concurrency, 0, 0, 0, 0)
        )
    if limits.min_delta:
        spacing_ms = max(1, round(limits.min_delta * 1000))
        windows.append((Algorithm.SPACING, "min_delta", Dimension.REQUESTS, 1, spacing_ms, 0, 0, 0))
    return windows


def money_periods(limits: LimitsConfig, now_ms: int) -> list[tuple[str, int]]:
    """What limits money here over a period: its name, a cap's included, and when the running period ends."""
    return [
        ("usd_per_day" if window[5] - window[4] < _TWO_DAYS_MS else "usd_per_month", window[5])
        for window in windows_of(limits, now_ms)
        if window[0] == Algorithm.CALENDAR and window[2] == Dimension.COST and window[3] != _COUNTS_ONLY
    ]


def has_limits(limits: LimitsConfig) -> bool:
    """Whether anything is limited or counted at all."""
    return bool(windows_of(limits, 0))


def may_refuse(limits: LimitsConfig) -> bool:
    """Whether anything is limited, so that a call may be refused."""
    return any(window[3] != _COUNTS_ONLY for window in windows_of(limits, 0))
