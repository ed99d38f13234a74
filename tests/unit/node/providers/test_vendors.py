"""Every vendor's way of saying no, and what it teaches about its limits."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.providers.classify import classify_event, classify_response
from node.providers.complaint import LONGEST_SPENT_S
from node.providers.learned import told_limits
from shared_state.catalogue.dialects import DIALECTS
from shared_state.errors import AuthenticationError, ProviderError, QuotaExhaustedError, RateLimitError
from tests.unit.node.providers.vendors import NOW_S, SEEN, Seen, quota_failure


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resets that are moments are read at the time of the table."""
    monkeypatch.setattr("node.providers.retry_after.time.time", lambda: NOW_S)


@pytest.mark.parametrize("seen", SEEN, ids=[seen.name for seen in SEEN])
def test_each_answer_means_what_its_vendor_means(seen: Seen) -> None:
    """Who is blamed, for how long, and what is booked."""
    error = classify_response(
        seen.status, seen.headers, seen.body, provider="alpha", dialect=seen.dialect, now_s=NOW_S
    )

    assert type(error) is seen.kind
    assert error.retry_after_s == (None if seen.wait_s is None else pytest.approx(seen.wait_s))
    assert error.is_day_spent == seen.is_day_spent
    assert sorted(error.learned) == sorted(seen.learned)


def test_a_wait_for_access_is_bounded() -> None:
    """A typing error must not take an account out for years."""
    body = b'{"error": {"message": "... You will regain access on 2999-01-01."}}'
    error = classify_response(402, {}, body, provider="alpha", now_s=NOW_S)

    assert error.retry_after_s == LONGEST_SPENT_S


@pytest.mark.parametrize("date", ["2000-01-01", "2026-13-45", "2026-09-01 at 99:99"])
def test_access_that_makes_no_sense_is_an_hour(date: str) -> None:
    """Past dates and impossible ones say nothing."""
    body = orjson.dumps({"error": {"message": f"You will regain access on {date} UTC."}})
    error = classify_response(402, {}, body, provider="alpha", now_s=NOW_S)

    assert error.retry_after_s == 3600.0


@pytest.mark.parametrize(
    ("event", "kind", "wait_s"),
    [
        ({"code": 429, "message": "Please try again in 1.5s"}, RateLimitError, 1.5),
        ({"status": "RESOURCE_EXHAUSTED", "code": 429}, RateLimitError, None),
        ({"details": [quota_failure("RequestsPerDayPerProject")]}, QuotaExhaustedError, 3600.0),
    ],
)
def test_an_error_inside_a_stream_means_the_same(
    event: dict[str, Any], kind: type[ProviderError], wait_s: float | None
) -> None:
    """Only the status line is missing."""
    error = classify_event(event, provider="alpha")

    assert type(error) is kind
    assert error.retry_after_s == wait_s


_TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["34s", "-1", "nan", "1e999", "9" * 400, "2999-01-01T00:00:00Z", "429", "PerDay", "[]"]),
)
_NAMES = st.sampled_from(
    [
        "error",
        "errors",
        "message",
        "detail",
        "type",
        "code",
        "status",
        "details",
        "metadata",
        "headers",
        "reason",
    ]
    + ["violations", "quotaId", "retryDelay", "innererror", "X-RateLimit-Reset", "error_code", "title"]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=5),
    max_leaves=20,
)
_BODIES = st.one_of(st.binary(max_size=80), _JSON.map(orjson.dumps))
_GAUGED = st.sampled_from(
    sorted({name for d in DIALECTS.values() for g in d.gauges for name in (g.limit, g.remaining, g.reset)})
    + ["retry-after", "retry-after-ms"]
)
_HEADERS = st.dictionaries(
    _GAUGED, st.one_of(_TEXTS, st.integers().map(str), st.floats().map(str)), max_size=6
)


@given(
    status=st.integers(0, 999),
    headers=_HEADERS,
    body=_BODIES,
    dialect=st.sampled_from([*DIALECTS, "none", "?"]),
)
def test_any_answer_is_understood_within_bounds(
    status: int, headers: dict[str, str], body: bytes, dialect: str
) -> None:
    """Whatever comes: one of our errors, sane times, sane counts, a bounded message."""
    error = classify_response(status, headers, body, provider="alpha", dialect=dialect)

    limits = told_limits(headers, dialect=dialect)

    assert isinstance(error, ProviderError)
    assert error.retry_after_s is None or 0 <= error.retry_after_s <= LONGEST_SPENT_S
    assert all(0 < limit < 10**12 for limit in limits.values())
    assert all(remaining >= 0 and 0 <= ms <= 3_600_000 for _, remaining, ms in error.learned)
    assert len({window for window, _, _ in error.learned}) == len(error.learned)
    assert len(error.message) < 400


@given(status=st.sampled_from([400, 413, 422]), headers=_HEADERS, body=_BODIES)
def test_a_callers_mistake_is_never_tried_again(status: int, headers: dict[str, str], body: bytes) -> None:
    """Nobody else would judge differently. Only a vendor's own fixed words about the account say otherwise."""
    error = classify_response(status, headers, body, provider="alpha")

    assert not error.retryable or isinstance(error, (QuotaExhaustedError, AuthenticationError))
    if b"API_KEY_INVALID" not in body:
        assert not error.retryable


@given(_JSON)
def test_any_error_event_is_understood(event: Any) -> None:
    """The same inside a stream."""
    error = classify_event(event, provider="alpha")

    assert isinstance(error, ProviderError)
    assert error.retry_after_s is None or 0 <= error.retry_after_s <= LONGEST_SPENT_S
