"""From an attempt's end to the outcome that settlement tallies: who is blamed, and for how long. Pure."""

from __future__ import annotations

from typing import Final

from shared_state.catalogue.dialects import Dialect
from shared_state.config import DeactivationConfig, LimitsConfig
from shared_state.errors import (
    AdmissionLapsedError,
    AuthenticationError,
    OutputOverrunError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    QuotaExhaustedError,
    RateLimitError,
    RejectedRequestError,
)
from shared_state.ledger import Outcome
from shared_state.limits import calendar_periods

#: Where nothing tells when a spent day comes back.
_UNKNOWN_DAY_S: Final = 3600.0
#: A pace that is too fast asks for no longer rest than this, whatever a provider says.
_LONGEST_REST_S: Final = 3600.0
#: A CDN's own spellings of 502: it could not get an answer from the provider.
_BAD_GATEWAYS: Final = frozenset({*range(520, 528), 530})


def outcome_of(error: ProviderError, rules: DeactivationConfig) -> Outcome:
    """What a failed attempt counts as. A caller's own mistake counts for nobody."""
    if isinstance(error, (RejectedRequestError, AdmissionLapsedError, OutputOverrunError)):
        return Outcome.NEUTRAL
    if isinstance(error, AuthenticationError):
        return Outcome.CREDENTIALS
    if isinstance(error, QuotaExhaustedError):
        return Outcome.QUOTA
    if isinstance(error, RateLimitError) and error.retry_after_s is not None:
        return Outcome.RATE_LIMITED
    if isinstance(error, ProviderUnavailableError) and not error.sent:
        return Outcome.UNREACHABLE
    if isinstance(error, ProviderTimeoutError) or error.status < 400 or error.status == 404:
        return Outcome.FAILURE
    if error.status in rules.error_codes or (error.status in _BAD_GATEWAYS and 502 in rules.error_codes):
        return Outcome.FAILURE
    return Outcome.NEUTRAL


def pause_s(error: ProviderError) -> float:
    """For how long a provider that has asked for it is left alone; 0 if it has not."""
    if error.retry_after_s is None:
        return 0.0
    is_pace = isinstance(error, RateLimitError) and not error.is_day_spent
    return min(error.retry_after_s, _LONGEST_REST_S) if is_pace else error.retry_after_s


def reset_s(
    error: ProviderError,
    schedule: str | None,
    limits: tuple[LimitsConfig, ...],
    dialect: Dialect,
    *,
    now_ms: int,
) -> float | None:
    """How long until a quota comes back whose provider names no time; None if none is spent, or it names one.

    Args:
        schedule: the pool's own; without one a day's quota comes back when the provider's day ends.
        limits: of the model and its provider, for their calendars.
    """
    if schedule and error.is_reset_unknown:
        return scheduled_reset_s(schedule, limits, now_ms=now_ms)
    return spent_day_s(limits, dialect, now_ms=now_ms) if error.is_day_spent else None


def spent_day_s(limits: tuple[LimitsConfig, ...], dialect: Dialect, *, now_ms: int) -> float:
    """How long until the quota of a day comes back: by the first configured calendar, else by the vendor's, else an hour."""
    known = _calendar(limits)
    timezone, reset_hour = (known.timezone, known.reset_hour) if known else (dialect.timezone, 0)
    if not timezone:
        return _UNKNOWN_DAY_S
    _, ends_ms, _ = calendar_periods("d", timezone, now_ms, reset_hour=reset_hour)
    return max(1, ends_ms - now_ms) / 1000


def scheduled_reset_s(schedule: str, limits: tuple[LimitsConfig, ...], *, now_ms: int) -> float:
    """How long until a spent quota comes back by ``recovery.quota_reset_schedule``."""
    known = _calendar(limits) or LimitsConfig()
    if schedule == "daily_utc":
        periods = calendar_periods("d", "UTC", now_ms)
    else:
        periods = calendar_periods(
            "M", known.timezone, now_ms, reset_hour=known.reset_hour, reset_day=known.reset_day
        )
    return max(1, periods[1] - now_ms) / 1000


def _calendar(limits: tuple[LimitsConfig, ...]) -> LimitsConfig | None:
    """The first that says something about its calendar."""
    keys = {"timezone", "reset_hour", "reset_day"}
    return next((known for known in limits if known.model_fields_set & keys), None)
