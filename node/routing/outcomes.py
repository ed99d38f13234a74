"""From an attempt's end to the outcome that settlement tallies: who is blamed, and for how long. Pure."""

from __future__ import annotations

from shared_state.config import DeactivationConfig
from shared_state.errors import (
    AdmissionLapsedError,
    AuthenticationError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    QuotaExhaustedError,
    RateLimitError,
    RejectedRequestError,
)
from shared_state.ledger import Outcome


def outcome_of(error: ProviderError, rules: DeactivationConfig) -> Outcome:
    """What a failed attempt counts as. A caller's own mistake counts for nobody."""
    if isinstance(error, (RejectedRequestError, AdmissionLapsedError)):
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
    return Outcome.FAILURE if error.status in rules.error_codes else Outcome.NEUTRAL
