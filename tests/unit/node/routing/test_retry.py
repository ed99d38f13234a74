"""RetryPolicy: the table of what follows a failed attempt."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.routing.retry import Decision, Next, decide
from shared_state.config import RetryConfig
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

REFUSED = RejectedRequestError("m", status=400)
BAD_KEY = AuthenticationError("m", status=401)
NO_MONEY = QuotaExhaustedError("m", status=429, retry_after_s=1.0)
PACE = RateLimitError("m", status=429)
PACE_2S = RateLimitError("m", status=429, retry_after_s=2.0)
PACE_60S = RateLimitError("m", status=429, retry_after_s=60.0)
TIMEOUT = ProviderTimeoutError("m")
NOT_SENT = ProviderUnavailableError("m", sent=False)
RESET = ProviderUnavailableError("m")
SERVER = ProviderUnavailableError("m", status=503)
OVERLOADED = ProviderUnavailableError("m", status=529)
NO_MODEL = ProviderUnavailableError("m", status=404)
GARBAGE = ProviderProtocolError("m")
NEVER_SENT_TIMEOUT = ProviderTimeoutError("m", sent=False)
FINAL = ProviderUnavailableError("m", status=503)
FINAL.is_final = True


def judge(
    error: ProviderError,
    *,
    tries: int = 1,
    left_s: float = 60.0,
    draw: float = 1.0,
    has_other: bool = True,
    **rules: Any,
) -> Decision:
    """The decision with a draw that leaves the delay as it is."""
    return decide(error, RetryConfig(**rules), tries=tries, left_s=left_s, draw=draw, has_other=has_other)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (REFUSED, Next.STOP),
        (BAD_KEY, Next.OTHER),
        (NO_MONEY, Next.OTHER),
        (TIMEOUT, Next.OTHER_ACCOUNT),
        (NOT_SENT, Next.OTHER),
        (NO_MODEL, Next.OTHER),
        (OVERLOADED, Next.OTHER),
        (PACE, Next.SAME),
        (PACE_2S, Next.SAME),
        (PACE_60S, Next.OTHER),
        (RESET, Next.OTHER_ACCOUNT),
        (SERVER, Next.SAME),
        (GARBAGE, Next.OTHER_ACCOUNT),
        (FINAL, Next.OTHER),
    ],
    ids=lambda value: f"{type(value).__name__} {getattr(value, 'status', value)}",
)
def test_each_failure_has_its_answer(error: ProviderError, wanted: Next) -> None:
    """A caller's mistake ends it; what may have been billed or cannot help is not repeated here; the rest is."""
    assert judge(error).next is wanted


@pytest.mark.parametrize("scope", ["same_model", "same_provider", "any"])
def test_a_callers_mistake_ends_it_in_every_scope(scope: str) -> None:
    """Another provider would say the same."""
    assert judge(REFUSED, scope=scope).next is Next.STOP


@pytest.mark.parametrize(
    ("scope", "wanted"),
    [("same_model", Next.SAME), ("same_provider", Next.SAME_PROVIDER), ("any", Next.OTHER)],
)
def test_the_scope_says_where_to_try_again(scope: str, wanted: Next) -> None:
    """A failure that could pass goes where the pool wants it."""
    assert judge(SERVER, scope=scope).next is wanted


@pytest.mark.parametrize(
    ("tries", "wanted"), [(1, Next.SAME), (2, Next.SAME), (3, Next.OTHER), (4, Next.OTHER)]
)
def test_a_model_gets_so_many_attempts(tries: int, wanted: Next) -> None:
    """max_attempts counts the first one."""
    assert judge(SERVER, tries=tries, max_attempts=3).next is wanted


@pytest.mark.parametrize("left_s", [0.0, -1.0])
def test_nothing_follows_the_deadline(left_s: float) -> None:
    """There is no time for another attempt anywhere."""
    assert judge(SERVER, left_s=left_s).next is Next.STOP


@pytest.mark.parametrize(("left_s", "wanted"), [(0.5, Next.OTHER), (0.51, Next.SAME)])
def test_a_pause_beyond_the_deadline_is_not_begun(left_s: float, wanted: Next) -> None:
    """Another model may answer in the time that is left."""
    assert judge(SERVER, left_s=left_s, initial_delay=0.5).next is wanted


@pytest.mark.parametrize(
    ("error", "rules", "tries", "draw", "pause_s"),
    [
        (SERVER, {}, 1, 1.0, 0.5),
        (SERVER, {}, 1, 0.0, 0.25),
        (SERVER, {}, 2, 1.0, 1.0),
        (SERVER, {"max_attempts": 20}, 10, 1.0, 10.0),
        (SERVER, {"backoff": "fixed"}, 2, 0.0, 0.5),
        (SERVER, {"backoff": "retry_after"}, 1, 1.0, 0.5),
        (PACE, {"backoff": "retry_after"}, 2, 0.0, 0.5),
        (PACE_2S, {}, 1, 0.0, 2.0),
        (PACE_2S, {"backoff": "fixed"}, 1, 0.0, 2.0),
        (PACE_2S, {"honor_retry_after": False}, 1, 1.0, 0.5),
        (PACE_2S, {"honor_retry_after": False, "backoff": "retry_after"}, 1, 1.0, 2.0),
        (PACE_60S, {"max_delay": 60}, 1, 0.0, 60.0),
    ],
)
def test_the_pause_follows_the_rules(
    error: ProviderError, rules: dict[str, Any], tries: int, draw: float, pause_s: float
) -> None:
    """The provider's word where it is honoured, else the backoff with its jitter, never more than max_delay."""
    assert judge(error, tries=tries, left_s=1000, draw=draw, **rules) == Decision(Next.SAME, pause_s)


def test_a_code_can_be_made_retryable_or_not() -> None:
    """The pool's own lists decide, and the second one wins."""
    assert judge(OVERLOADED, retryable_codes=[529]).next is Next.SAME
    assert judge(SERVER, retryable_codes=[429]).next is Next.OTHER
    assert judge(SERVER, non_retryable_codes=[503]).next is Next.OTHER


_ERRORS = st.sampled_from(
    [REFUSED, BAD_KEY, NO_MONEY, PACE, PACE_2S, PACE_60S, TIMEOUT, NOT_SENT, RESET, SERVER, GARBAGE]
)


@given(
    error=_ERRORS,
    tries=st.integers(1, 50),
    left_s=st.floats(-10, 1000),
    draw=st.floats(0, 1, exclude_max=True),
    backoff=st.sampled_from(["fixed", "exponential_jitter", "retry_after"]),
)
def test_a_pause_is_always_within_bounds(
    error: ProviderError, tries: int, left_s: float, draw: float, backoff: str
) -> None:
    """Whatever comes together: no negative pause, none beyond max_delay or the deadline, no try too many."""
    decision = judge(error, tries=tries, left_s=left_s, draw=draw, backoff=backoff)

    assert 0 <= decision.pause_s <= 10.0
    if decision.next is Next.SAME:
        assert decision.pause_s < left_s
        assert tries < 3


@pytest.mark.parametrize("scope", ["same_model", "same_provider", "any"])
def test_a_kept_connection_that_was_dead_is_tried_again_only_if_nobody_else_is_left(scope: str) -> None:
    """It may have been billed, so another model is better; alone, it gets one more chance at once."""
    stale = ProviderProtocolError("m", stale=True)

    assert judge(stale, scope=scope).next is Next.OTHER
    assert judge(stale, scope=scope, has_other=False, max_attempts=1) == Decision(Next.SAME)
    assert judge(stale, tries=2, scope=scope, has_other=False).next is Next.OTHER
    assert judge(stale, left_s=0, has_other=False).next is Next.STOP


_MAY_BE_BILLED = (TIMEOUT, RESET, GARBAGE)
_NOT_BILLED = (BAD_KEY, NO_MONEY, PACE, NOT_SENT, NEVER_SENT_TIMEOUT, SERVER, NO_MODEL)


@pytest.mark.parametrize("scope", ["same_model", "same_provider", "any"])
@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("other_account", Next.OTHER_ACCOUNT),
        ("other_model", Next.OTHER),
        ("never", Next.STOP),
    ],
)
@pytest.mark.parametrize("error", _MAY_BE_BILLED, ids=lambda error: type(error).__name__)
def test_what_may_have_been_billed_goes_where_the_pool_allows(
    error: ProviderError, rule: str, wanted: Next, scope: str
) -> None:
    """Whatever the scope: it was sent, and nobody has seen an answer."""
    assert judge(error, maybe_billed=rule, scope=scope).next is wanted


@pytest.mark.parametrize(
    ("error", "wanted"), [(TIMEOUT, Next.OTHER), (RESET, Next.SAME), (GARBAGE, Next.SAME)]
)
def test_a_pool_may_not_care_about_bills(error: ProviderError, wanted: Next) -> None:
    """Then it is a failure like any other; who has not answered in time is still left."""
    assert judge(error, maybe_billed="any").next is wanted


@pytest.mark.parametrize("rule", ["any", "other_model", "other_account", "never"])
@pytest.mark.parametrize("error", _NOT_BILLED, ids=lambda error: type(error).__name__)
def test_what_was_refused_or_never_sent_is_not_billed(error: ProviderError, rule: str) -> None:
    """A provider that answers with an error has done no work; the rule does not matter."""
    assert judge(error, maybe_billed=rule) == judge(error)


def test_a_kept_connection_that_was_dead_counts_only_where_nothing_may_be_repeated() -> None:
    """It had been closed before the request came."""
    stale = ProviderProtocolError("m", stale=True)

    assert judge(stale, maybe_billed="other_account").next is Next.OTHER
    assert judge(stale, maybe_billed="never").next is Next.STOP
