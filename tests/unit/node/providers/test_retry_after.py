"""Waits that providers ask for: every spelling, and nothing absurd."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.providers.retry_after import LONGEST_S, parse_reset, parse_retry_after

NOW_S = datetime(2025, 3, 1, 12, 0, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "99999999999"}, LONGEST_S),
        ({"retry-after": "1e999"}, LONGEST_S),
        ({"retry-after": "Sat, 01 Mar 2025 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Sat, 01 Mar 2025 11:59:30 GMT"}, 0.0),
        ({"retry-after": "Saturday, 01-Mar-25 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Sat, 01 Mar 2035 12:00:30 GMT"}, LONGEST_S),
        ({"retry-after": "Sat, 99 Mar 2025 12:00:30 GMT"}, None),
        ({"retry-after": "Sat, 01 Mar 2025 12:00:30 +9999"}, None),
    ],
)
def test_every_spelling_of_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, fractions, milliseconds and dates; absurd ones count as absent, long ones as a day."""
    assert parse_retry_after(headers, now_s=NOW_S) == seconds


@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles", "Asia/Kolkata"])
def test_a_date_without_a_zone_is_utc(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP's oldest date format names no zone and means UTC, wherever the node stands."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        seconds = parse_retry_after({"retry-after": "Sat Mar  1 12:00:30 2025"}, now_s=NOW_S)
    finally:
        monkeypatch.undo()
        time.tzset()

    assert seconds == 30.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("120ms", 0.12),
        ("1h2m3.5s", 3723.5),
        ("2d", LONGEST_S),
        ("7", 7.0),
        ("", None),
        ("s", None),
        ("-1s", None),
        ("1x", None),
        ("1s later", None),
        ("950µs", 0.00095),
        ("11.38", 11.38),
        ("1740830430", 30.0),
        ("1740830430000", 30.0),
        ("1740830370", 0.0),
        ("2025-03-01T12:00:30Z", 30.0),
        ("2025-03-01T12:00:30.250Z", 30.25),
        ("2025-03-01T12:00:30.123456789Z", 30.123456),
        ("2025-03-01T07:00:30-05:00", 30.0),
        ("2025-03-01T12:00:30", 30.0),
        ("2025-03-01T11:00:00Z", 0.0),
        ("2035-03-01T12:00:30Z", LONGEST_S),
        ("2025-13-01T12:00:30Z", None),
        ("Sat, 01 Mar 2025 12:00:30 GMT", 30.0),
    ],
)
def test_every_spelling_of_a_reset(text: str, seconds: float | None) -> None:
    """Durations, seconds, moments in unix time, and dates."""
    assert parse_reset(text, now_s=NOW_S) == (None if seconds is None else pytest.approx(seconds))


_DATES = st.datetimes(timezones=st.just(UTC)).map(lambda at: format_datetime(at, usegmt=True))
_TEXTS = st.one_of(
    st.text(max_size=30),
    st.floats().map(str),
    st.integers().map(str),
    _DATES,
    st.lists(
        st.sampled_from(
            ["Mon,", "31", "Feb", "Mar", "0", "9999", "99:99:99", "12:00", "-0000", "+9999", "GMT", ","]
        ),
        max_size=8,
    ).map(" ".join),
)


@given(_TEXTS, _TEXTS)
def test_nonsense_gives_a_sane_wait_or_none(text: str, millis: str) -> None:
    """Whatever stands there: none, or between nothing and a day."""
    for headers in (
        {"retry-after": text},
        {"retry-after-ms": millis},
        {"retry-after": text, "retry-after-ms": millis},
    ):
        seconds = parse_retry_after(headers, now_s=NOW_S)
        assert seconds is None or 0 <= seconds <= LONGEST_S
    seconds = parse_reset(text, now_s=NOW_S)
    assert seconds is None or 0 <= seconds <= LONGEST_S
