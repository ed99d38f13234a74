"""Calendars and windows: the periods that people mean, in every zone, on every odd day."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_state.config import LimitsConfig
from shared_state.config.limits import Cap, CappedLimits
from shared_state.limits import (
    BUCKETS,
    GUARD_MS,
    HOUR_MS,
    MINUTE_MS,
    Algorithm,
    Dimension,
    calendar_periods,
    has_limits,
    may_refuse,
    money_periods,
    windows_of,
)

DAY_MS = 24 * HOUR_MS


def ms(text: str, zone: str = "UTC") -> int:
    """Unix milliseconds of a local time."""
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def periods(unit: str, zone: str, now: str) -> tuple[int, int, int]:
    return calendar_periods(unit, zone, ms(now, zone))


@pytest.mark.parametrize(
    ("unit", "now", "start", "end", "after"),
    [
        ("d", "2026-11-23T09:14:00", "2026-11-23", "2026-11-24", "2026-11-25"),
        ("d", "2026-11-23T00:00:00", "2026-11-23", "2026-11-24", "2026-11-25"),
        ("d", "2026-12-31T23:59:59.999", "2026-12-31", "2027-01-01", "2027-01-02"),
        ("w", "2026-11-23T00:00:00", "2026-11-23", "2026-11-30", "2026-12-07"),
        ("w", "2026-11-29T23:59:59.999", "2026-11-23", "2026-11-30", "2026-12-07"),
        ("w", "2027-01-01T12:00:00", "2026-12-28", "2027-01-04", "2027-01-11"),
        ("M", "2026-01-31T12:00:00", "2026-01-01", "2026-02-01", "2026-03-01"),
        ("M", "2028-02-29T12:00:00", "2028-02-01", "2028-03-01", "2028-04-01"),
        ("M", "2026-11-30T23:59:59.999", "2026-11-01", "2026-12-01", "2027-01-01"),
    ],
)
def test_a_period_holds_its_moment_and_ends_where_the_next_begins(unit, now, start, end, after):
    """Days from midnight, weeks from Monday, months from the first; the end belongs to the next."""
    assert periods(unit, "UTC", now) == (ms(start), ms(end), ms(after))


def test_a_period_may_begin_at_another_hour_and_day():
    """A billing month from the 15th, 8 o'clock; hours and minutes do not care."""
    start, end, _ = calendar_periods("M", "UTC", ms("2026-11-15T07:59:59"), reset_hour=8, reset_day=15)

    assert (start, end) == (ms("2026-10-15T08:00:00"), ms("2026-11-15T08:00:00"))
    start, end, _ = calendar_periods("h", "UTC", ms("2026-11-15T07:59:59"), reset_hour=8, reset_day=15)
    assert (start, end) == (ms("2026-11-15T07:00:00"), ms("2026-11-15T08:00:00"))


def test_a_day_of_los_angeles_begins_at_its_own_midnight():
    """Several providers count their free days in Pacific time."""
    start, end, _ = calendar_periods("d", "America/Los_Angeles", ms("2026-11-23T07:59:59"))

    assert ms("2026-11-22T08:00:00") == start
    assert ms("2026-11-23T08:00:00") == end


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("America/Los_Angeles", "2026-03-08", 23),
        ("America/Los_Angeles", "2026-11-01", 25),
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("Africa/Cairo", "2026-04-24", 23),  # midnight itself is skipped
        ("America/Havana", "2026-11-01", 25),  # midnight comes twice
        ("Atlantic/Azores", "2026-10-25", 25),
        ("Asia/Kolkata", "2026-10-25", 24),
    ],
)
def test_a_day_is_as_long_as_its_clocks_make_it(zone, day, hours):
    """The period is the same at every moment of the day, also in the hour that comes twice."""
    first = periods("d", zone, f"{day}T12:00:00")
    quarters = range(first[0], first[1], MINUTE_MS * 15)

    assert hours * HOUR_MS == first[1] - first[0]
    assert {calendar_periods("d", zone, now) for now in quarters} == {first}


@given(
    unit=st.sampled_from("mhdwM"),
    zone=st.sampled_from(
        ["UTC", "America/Los_Angeles", "Europe/Berlin", "America/Havana", "Asia/Kathmandu", "Pacific/Apia"]
    ),
    now_ms=st.integers(ms("2024-01-01"), ms("2034-01-01")),
    reset_hour=st.sampled_from([0, 1, 2, 3, 23]),
    reset_day=st.sampled_from([1, 15, 28]),
)
def test_periods_follow_one_another_without_gap(unit, zone, now_ms, reset_hour, reset_day):
    """Every moment lies in exactly one period, and the next period is the one that was announced."""

    def around(moment_ms: int) -> tuple[int, int, int]:
        return calendar_periods(unit, zone, moment_ms, reset_hour=reset_hour, reset_day=reset_day)

    start, end, after = around(now_ms)

    assert start <= now_ms < end < after
    assert around(start) == (start, end, after)
    assert around(end - 1) == (start, end, after)
    assert around(end)[:2] == (end, after)
    assert around(start - 1)[1] == start


@given(day=st.dates(date(2024, 1, 1), date(2034, 1, 1)))
def test_a_week_begins_on_monday_and_a_month_on_the_first(day):
    """As the local calendar says, whatever the zone's offset is that day."""
    zone = ZoneInfo("Europe/Berlin")
    now_ms = round(datetime.combine(day, time(12), zone).timestamp() * 1000)

    def local(unit: str) -> list[date]:
        return [
            datetime.fromtimestamp(at / 1000, zone).date()
            for at in calendar_periods(unit, "Europe/Berlin", now_ms)
        ]

    monday, next_monday, _ = local("w")
    assert (monday.weekday(), next_monday - monday) == (0, timedelta(days=7))
    assert [first.day for first in local("M")] == [1, 1, 1]


def test_a_minute_and_an_hour_slide():
    """Buckets divide the window evenly; each is kept for the guard longer."""
    windows = windows_of(LimitsConfig(rpm=60, tph=5000), 0)

    assert windows == [
        (Algorithm.SLIDING, "rpm", Dimension.REQUESTS, 60, MINUTE_MS, MINUTE_MS // BUCKETS, GUARD_MS, 0),
        (Algorithm.SLIDING, "tph", Dimension.TOKENS, 5000, HOUR_MS, HOUR_MS // BUCKETS, GUARD_MS, 0),
    ]
    assert all(length % bucket == 0 for _, _, _, _, length, bucket, *_ in windows)


def test_every_limit_becomes_one_window():
    """Requests and tokens per minute, hour, day, week and month; calls in flight; spacing."""
    units = {f"{letter}p{unit}": 7 for letter in "rt" for unit in "mhdwM"}
    limits = LimitsConfig(**units, concurrency=2, min_delta=0.5)
    now_ms = round(datetime(2026, 11, 23, 9, tzinfo=UTC).timestamp() * 1000)
    windows = {name: rest for _, name, *rest in windows_of(limits, now_ms)}

    assert set(windows) == {*units, "concurrency", "min_delta"}
    assert windows["tpd"] == [Dimension.TOKENS, 7, *calendar_periods("d", "UTC", now_ms), 0]
    assert windows["rpM"] == [Dimension.REQUESTS, 7, *calendar_periods("M", "UTC", now_ms), 0]
    assert windows["concurrency"] == [Dimension.REQUESTS, 2, 0, 0, 0, 0]
    assert windows["min_delta"] == [Dimension.REQUESTS, 1, 500, 0, 0, 0]


@pytest.mark.parametrize(("min_delta", "spacing_ms"), [(0.0001, 1), (1, 1000), ("2s", 2000)])
def test_spacing_is_at_least_a_millisecond(min_delta, spacing_ms):
    """What is configured as a distance never rounds to none."""
    (window,) = windows_of(LimitsConfig(min_delta=min_delta), 0)

    assert window[4] == spacing_ms


def test_what_is_absent_or_zero_limits_nothing():
    """No limits, no windows; a distance of 0 is none."""
    assert not has_limits(LimitsConfig())
    assert not has_limits(LimitsConfig(min_delta=0))
    assert has_limits(LimitsConfig(rpd=1))


def test_money_that_is_not_enforced_is_counted_and_told_and_limits_nothing():
    """A limit of zero counts; what one request may cost holds all the same."""
    watched = LimitsConfig(usd_per_day=1, usd_per_month=5, usd_enforced=False)
    windows = windows_of(watched, 0)

    assert [(name, limit, alert) for _, name, _, limit, *_, alert in windows] == [
        ("usd_per_day", 0, 800_000_000),
        ("usd_per_month", 0, 4_000_000_000),
    ]
    assert (has_limits(watched), may_refuse(watched), money_periods(watched, 0)) == (True, False, [])
    assert may_refuse(LimitsConfig(usd_per_request=1, usd_enforced=False))


def test_what_limits_money_is_named_by_its_period():
    """Windows and caps alike, with the end of the running period."""
    limits = CappedLimits.of(
        LimitsConfig(usd_per_month=5, rpd=1), [Cap("budget_exceeded", 1, "d", "UTC", 0, 1, returns=True)]
    )

    assert money_periods(limits, 0) == [("usd_per_month", 31 * DAY_MS), ("usd_per_day", DAY_MS)]


def test_the_calendar_follows_the_configured_zone():
    """The same moment belongs to different days in different zones."""
    now_ms = ms("2026-11-23T07:00:00")
    (pacific,) = windows_of(LimitsConfig(rpd=1, timezone="America/Los_Angeles"), now_ms)
    (utc,) = windows_of(LimitsConfig(rpd=1), now_ms)

    assert utc[4] - pacific[4] == DAY_MS - 8 * HOUR_MS
