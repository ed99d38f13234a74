"""Who is blamed for a failed attempt."""

from __future__ import annotations

import pytest

from node.routing.outcomes import outcome_of, scheduled_reset_s, spent_day_s
from shared_state.catalogue.dialects import dialect_of
from shared_state.config import DeactivationConfig, LimitsConfig
from shared_state.errors import (
    AuthenticationError,
    ProviderError,
    ProviderProtocolError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    QuotaExhaustedError,
    RateLimitError,
    RejectedRequestError,
)
from shared_state.ledger import Outcome


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RejectedRequestError("m", status=400), Outcome.NEUTRAL),
        (RejectedRequestError("m", status=413), Outcome.NEUTRAL),
        (RejectedRequestError("m", status=422), Outcome.NEUTRAL),
        (AuthenticationError("m", status=401), Outcome.CREDENTIALS),
        (AuthenticationError("m", status=403), Outcome.CREDENTIALS),
        (QuotaExhaustedError("m", status=429, retry_after_s=3600), Outcome.QUOTA),
        (QuotaExhaustedError("m", status=402, retry_after_s=3600), Outcome.QUOTA),
        (RateLimitError("m", status=429, retry_after_s=2.0), Outcome.RATE_LIMITED),
        (RateLimitError("m", status=429, retry_after_s=0.0), Outcome.RATE_LIMITED),
        (RateLimitError("m", status=429), Outcome.FAILURE),
        (ProviderUnavailableError("m", sent=False), Outcome.UNREACHABLE),
        (ProviderUnavailableError("m"), Outcome.FAILURE),
        (ProviderUnavailableError("m", status=500), Outcome.FAILURE),
        (ProviderUnavailableError("m", status=404), Outcome.FAILURE),
        (ProviderUnavailableError("m", status=529), Outcome.NEUTRAL),
        (ProviderUnavailableError("m", status=408), Outcome.NEUTRAL),
        (ProviderUnavailableError("m", status=520), Outcome.FAILURE),
        (ProviderUnavailableError("m", status=530), Outcome.FAILURE),
        (ProviderTimeoutError("m"), Outcome.FAILURE),
        (ProviderTimeoutError("m", sent=False), Outcome.FAILURE),
        (ProviderProtocolError("m"), Outcome.FAILURE),
        (ProviderProtocolError("m", status=200), Outcome.FAILURE),
        (ProviderProtocolError("m", status=302), Outcome.FAILURE),
    ],
    ids=lambda value: f"{type(value).__name__} {getattr(value, 'status', value)}",
)
def test_each_failure_counts_as_what_it_is(error: ProviderError, outcome: Outcome) -> None:
    """By the pool's default error codes."""
    assert outcome_of(error, DeactivationConfig()) is outcome


def test_the_pool_says_which_statuses_count() -> None:
    """A pool that counts 529 counts it, and one that forgives 429 does not."""
    overloaded = ProviderUnavailableError("m", status=529)
    pace = RateLimitError("m", status=429)

    assert outcome_of(overloaded, DeactivationConfig(error_codes=[529])) is Outcome.FAILURE
    assert outcome_of(pace, DeactivationConfig(error_codes=[500])) is Outcome.NEUTRAL
    assert outcome_of(ProviderUnavailableError("m", status=520), DeactivationConfig(error_codes=[500])) is (
        Outcome.NEUTRAL
    )


def test_broken_connections_count_whatever_the_codes() -> None:
    """An empty list of statuses forgives statuses only."""
    rules = DeactivationConfig(error_codes=[])

    assert outcome_of(ProviderTimeoutError("m"), rules) is Outcome.FAILURE
    assert outcome_of(ProviderUnavailableError("m"), rules) is Outcome.FAILURE
    assert outcome_of(ProviderUnavailableError("m", status=500), rules) is Outcome.NEUTRAL


#: Monday, 23 November 2026, 09:00 UTC: 01:00 in California, 10:00 in Berlin.
_NOW_MS = 1_795_424_400_000
_HOUR_S = 3600


@pytest.mark.parametrize(
    ("model", "account", "dialect", "hours"),
    [
        ({}, {}, "openai", 1),
        ({}, {}, "gemini", 23),
        ({}, {}, "openrouter", 15),
        ({}, {"timezone": "Europe/Berlin"}, "gemini", 14),
        ({}, {"reset_hour": 10}, "openai", 1),
        ({"timezone": "UTC"}, {"timezone": "Europe/Berlin"}, "gemini", 15),
        ({"rpd": 50}, {"timezone": "Europe/Berlin", "reset_hour": 12}, "openai", 2),
    ],
)
def test_a_spent_day_ends_with_its_calendar(
    model: dict[str, object], account: dict[str, object], dialect: str, hours: int
) -> None:
    """The configured calendar, else the vendor's own, else an hour."""
    limits = (LimitsConfig(**model), LimitsConfig(**account))

    assert spent_day_s(limits, dialect_of(dialect), now_ms=_NOW_MS) == hours * _HOUR_S


@pytest.mark.parametrize(
    ("schedule", "limits", "hours"),
    [
        ("daily_utc", {"timezone": "Asia/Tokyo"}, 15),
        ("monthly", {}, 7 * 24 + 15),
        ("monthly", {"timezone": "America/Los_Angeles"}, 7 * 24 + 23),
        ("monthly", {"reset_day": 25, "reset_hour": 6}, 45),
    ],
)
def test_a_spent_quota_comes_back_by_the_pools_schedule(
    schedule: str, limits: dict[str, object], hours: int
) -> None:
    """From Monday, 23 November 2026, 09:00 UTC: the provider's own calendar, or midnight in UTC."""
    now_ms = 1_795_424_400_000

    assert scheduled_reset_s(schedule, (LimitsConfig(**limits),), now_ms=now_ms) == hours * 3600
