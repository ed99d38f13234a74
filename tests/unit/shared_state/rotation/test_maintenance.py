"""Maintenance windows are functions of the clock, in the time zone of whoever is maintained."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from shared_state.config.pools import MaintenanceConfig
from shared_state.rotation.maintenance import Calendar, Calendars, Span, next_begin_ms, running
from shared_state.state import ACTIVE, EntityState
from tests.unit.shared_state.test_selection import faults, topology


def window(cron: str, **keys: Any) -> MaintenanceConfig:
    return MaintenanceConfig(cron=cron, **keys)


def at(text: str, zone: str = "UTC") -> int:
    """Unix ms of a local time."""
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


@pytest.mark.parametrize(
    ("now", "is_running"),
    [
        ("2026-11-22 02:59:59.999", False),
        ("2026-11-22 03:00", True),
        ("2026-11-22 03:29:59.999", True),
        ("2026-11-22 03:30", False),
        ("2026-11-23 03:10", False),
    ],
)
def test_a_window_runs_from_its_minute_for_its_duration(now: str, is_running: bool) -> None:
    """Sundays at three, for half an hour; 0 is Sunday, as in every crontab."""
    span = running(window("0 3 * * 0", duration="30m"), at(now))

    assert (span is not None) is is_running
    if span:
        assert span == (at("2026-11-22 03:00"), at("2026-11-22 03:30"))


def test_a_window_follows_its_time_zone_through_the_change_of_clocks() -> None:
    """Three in Berlin is one hour later in winter, by UTC."""
    rule = window("0 3 * * *", timezone="Europe/Berlin")

    assert running(rule, at("2026-07-01 01:10")) == (at("2026-07-01 01:00"), at("2026-07-01 02:00"))
    assert running(rule, at("2026-12-01 02:10")) == (at("2026-12-01 02:00"), at("2026-12-01 03:00"))
    assert running(rule, at("2026-12-01 01:10")) is None


def test_a_window_may_last_over_midnight() -> None:
    """It belongs to the day on which it began."""
    rule = window("0 23 * * *", duration="3h")

    assert running(rule, at("2026-11-23 01:30")) == (at("2026-11-22 23:00"), at("2026-11-23 02:00"))
    assert next_begin_ms(rule, at("2026-11-23 01:30")) == at("2026-11-23 23:00")


def test_a_calendar_looks_again_when_something_changes() -> None:
    """Between two changes the crontabs are not read; each change is seen to the millisecond."""
    calendar = Calendar((window("0 3 * * *", duration="30m"), window("15 3 * * *", duration="1h")))
    spans = {
        now: calendar.span(at(f"2026-11-22 {now}"))
        for now in ("02:59", "03:00", "03:14", "03:15", "04:14", "04:15", "02:00")
    }
    first = Span(at("2026-11-22 03:00"), at("2026-11-22 03:30"))
    second = Span(at("2026-11-22 03:15"), at("2026-11-22 04:15"))

    assert spans == {
        "02:59": None,
        "03:00": first,
        "03:14": first,
        "03:15": second,
        "04:14": second,
        "04:15": None,
        "02:00": None,
    }


def test_a_resting_model_looks_like_one_on_standby() -> None:
    """Unless an operator has brought it back since the window began."""
    calendars = Calendars(
        topology(chat={"models": ["a.m"], "deactivation": {"maintenance_window": "0 3 * * *"}})
    )
    now_ms, begins_ms = at("2026-11-22 03:10"), at("2026-11-22 03:00")
    rest = calendars.rest_of("a.m", ACTIVE, now_ms)

    assert rest is not None
    assert (rest.reason, rest.mode, rest.until_ms) == ("maintenance_window", "time", at("2026-11-22 04:00"))
    assert calendars.rest_of("a.m", EntityState(since_ms=begins_ms + 1), now_ms) is None
    assert calendars.rest_of("a.m", EntityState(since_ms=begins_ms - 1), now_ms) is not None
    assert calendars.rest_of("a.m", ACTIVE, begins_ms - 1) is None
    assert calendars.rest_of("b.m", ACTIVE, now_ms) is None


def test_a_pools_window_is_that_of_its_members_in_their_time_zone() -> None:
    """Its own word first, then the model's calendar."""
    models = topology(
        models={"a.m": {"limits": {"timezone": "Asia/Tokyo", "rpd": 5}}},
        chat={"models": ["a.m", "b.m"], "deactivation": {"maintenance_window": {"cron": "0 3 * * *"}}},
        more={
            "models": ["a.m"],
            "deactivation": {"maintenance_window": {"cron": "0 5 * * *", "timezone": "Europe/Berlin"}},
        },
    ).models
    zones = {name: [rest.timezone for rest in spec.maintenance] for name, spec in models.items()}

    assert zones == {"a.m": ["Asia/Tokyo", "Europe/Berlin"], "b.m": ["UTC"], "c.m": []}


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("61 * * * *", "Bad minute"),
        ("0 3 * *", "must have five fields"),
        ({"cron": "0 3 * * *", "timezone": "Europe/Atlantis"}, "unknown time zone 'Europe/Atlantis'"),
        ({"cron": "0 3 * * *", "duration": 0}, "greater than 0"),
        ({"duration": "1h"}, "is required"),
    ],
)
def test_a_window_that_cannot_be_read_is_a_fault(value: Any, fault: str) -> None:
    """With the place and what is wrong."""
    (told,) = faults(deactivation={"maintenance_window": value})

    assert told.startswith("pools.chat.deactivation.maintenance_window")
    assert fault in told
