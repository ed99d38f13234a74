"""RetryPolicy: what follows a failed attempt. Pure: facts in, decision out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from shared_state.config import RetryConfig
from shared_state.errors import (
    AuthenticationError,
    ProviderError,
    ProviderTimeoutError,
    QuotaExhaustedError,
    RateLimitError,
)


class Next(StrEnum):
    """What to do now."""

    SAME = "same"
    SAME_PROVIDER = "same_provider"
    OTHER = "other"
    OTHER_ACCOUNT = "other_account"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict of the policy; the pause comes before a try of the same model."""

    next: Next
    pause_s: float = 0.0


STOP = Decision(Next.STOP)
OTHER = Decision(Next.OTHER)
OTHER_ACCOUNT = Decision(Next.OTHER_ACCOUNT)


def decide(
    error: ProviderError,
    rules: RetryConfig,
    *,
    tries: int,
    left_s: float,
    draw: float,
    has_other: bool = True,
) -> Decision:
    """Judges a failed attempt.

    Args:
        tries: attempts on this model so far, the failed one included.
        left_s: seconds until the request's deadline.
        draw: uniform in [0, 1), for the jitter.
        has_other: whether another candidate is left.

    Returns:
        ``SAME`` after a pause, ``SAME_PROVIDER``, ``OTHER`` or ``OTHER_ACCOUNT`` for the next candidate, or ``STOP``.
    """
    if not error.retryable or left_s <= 0:
        return STOP
    if error.may_be_billed and rules.maybe_billed == "never":
        return STOP
    if error.stale and tries == 1 and not has_other:
        return Decision(Next.SAME)
    if error.may_be_billed and not error.stale and rules.maybe_billed != "any":
        return OTHER if rules.maybe_billed == "other_model" else OTHER_ACCOUNT
    if _is_hopeless_here(error, rules):
        return OTHER
    if rules.scope == "any":
        return OTHER
    if rules.scope == "same_provider":
        return Decision(Next.SAME_PROVIDER)
    if tries >= rules.max_attempts:
        return OTHER
    pause_s = _pause_s(error, rules, tries, draw)
    return OTHER if pause_s > rules.max_delay or pause_s >= left_s else Decision(Next.SAME, pause_s)


def _is_hopeless_here(error: ProviderError, rules: RetryConfig) -> bool:
    """Whether the same model would fail again, or asks not to be tried again."""
    if (
        error.is_final
        or error.stale
        or isinstance(error, (AuthenticationError, QuotaExhaustedError, ProviderTimeoutError))
    ):
        return True
    if not error.sent:
        return True  # nobody is listening there
    return error.status in rules.non_retryable_codes or (
        error.status >= 400 and error.status not in rules.retryable_codes
    )


def _pause_s(error: ProviderError, rules: RetryConfig, tries: int, draw: float) -> float:
    asked = error.retry_after_s
    if asked is not None and (rules.honor_retry_after or rules.backoff == "retry_after"):
        return asked
    if isinstance(error, RateLimitError) and rules.backoff == "retry_after":
        return rules.initial_delay
    if rules.backoff == "fixed":
        return rules.initial_delay
    return float(min(rules.max_delay, rules.initial_delay * 2 ** (tries - 1)) * (0.5 + draw / 2))
