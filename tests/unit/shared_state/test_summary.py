"""Sums and percentiles of minute statistics."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_state.statistics import LATENCY_BOUNDS_MS, MinuteRow
from shared_state.summary import Summary, summarise


def bucket_of(ms: int) -> str:
    """The bucket that the settle script counts a latency in."""
    place = next(
        (i for i, bound in enumerate(LATENCY_BOUNDS_MS, 1) if ms <= bound), len(LATENCY_BOUNDS_MS) + 1
    )
    return f"latency_le_{place}"


def of_latencies(*latencies: int) -> Summary:
    metrics: dict[str, int] = {"ok": len(latencies), "latency_ms": sum(latencies)}
    for ms in latencies:
        metrics[bucket_of(ms)] = metrics.get(bucket_of(ms), 0) + 1
    return Summary(metrics)


def test_a_percentile_lies_in_its_bucket():
    """Spread evenly within it."""
    summary = of_latencies(*[20] * 90, *[400] * 10)

    assert summary.latency_ms(0.5) == pytest.approx(10 + 15 * 50 / 90)
    assert summary.latency_ms(0.95) == pytest.approx(250 + 250 * 5 / 10)
    assert summary.mean_ms("latency_ms") == pytest.approx(58)


def test_without_a_success_there_is_no_latency():
    """Nothing is made up."""
    assert Summary({}).latency_ms(0.5) is None
    assert Summary({"failed": 3}).mean_ms("latency_ms") is None


def test_of_the_open_bucket_only_its_beginning_is_known():
    """A minute or more is told as a minute."""
    assert of_latencies(90_000).latency_ms(0.5) == LATENCY_BOUNDS_MS[-1]


@given(st.lists(st.integers(0, 70_000), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_percentile_is_as_near_as_the_buckets_tell(latencies, part):
    """The true one lies in the same bucket, or on its edge."""
    true = sorted(latencies)[math.ceil(part * len(latencies)) - 1]
    found = of_latencies(*latencies).latency_ms(part)
    bounds = [0, *LATENCY_BOUNDS_MS]
    low = max(b for b in bounds if b < max(true, 1))
    high = min((b for b in LATENCY_BOUNDS_MS if b >= true), default=LATENCY_BOUNDS_MS[-1])

    assert low - 1e-6 <= found <= high + 1e-6


def test_rows_are_summed_by_any_key():
    """Every row is counted once under each key."""
    rows = [
        MinuteRow("a", "a.m", "chat", 7, {"attempts": 2}),
        MinuteRow("a", "a.m", "code", 8, {"attempts": 3, "ok": 1}),
    ]

    assert {k: s["attempts"] for k, s in summarise(rows, lambda row: row.pool).items()} == {
        "chat": 2,
        "code": 3,
    }
    assert summarise(rows)[""]["attempts"] == 5
    assert summarise(rows)[""]["failed"] == 0
