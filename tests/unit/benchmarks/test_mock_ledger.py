"""The mock's books: exact sliding windows, its own limit, counters."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.mock_ledger import Entry, Ledger, SlidingLimit, SlidingMaximum, sliding_maximum

_TIMES = st.lists(st.integers(0, 300).map(lambda tenths: tenths / 4), max_size=60)


def _entry(n: int, *, t: float = 0.0, status: int = 200, model: str = "m") -> Entry:
    return Entry(n, t, "/v1/embeddings", model, False, status, "ok", 10, "", "")


@given(_TIMES)
def test_sliding_maximum_is_exact(times):
    """No interval of 10 s held more events than it says, and one held as many."""
    brute_force = max((sum(1 for t in times if end - 10 < t <= end) for end in times), default=0)

    assert sliding_maximum(times, window_s=10) == brute_force


@given(_TIMES, st.integers(1, 5))
def test_own_limit_admits_no_more_in_any_interval(times, limit):
    """The mock's own limit is what it claims, and its wait is honest."""
    window, admitted = SlidingLimit(limit, window_s=10), SlidingMaximum(10)
    for t in sorted(times):
        wait_s = window.admit(t)
        if wait_s == 0:
            admitted.add(t)
        else:
            assert 0 < wait_s <= 10

    assert admitted.maximum <= limit


def test_the_wait_of_a_refusal_is_exact():
    """The request succeeds when the wait is over and not before."""
    window = SlidingLimit(1, window_s=10)

    assert window.admit(100.0) == 0
    assert window.admit(103.0) == 7.0
    assert window.admit(109.9) > 0
    assert window.admit(110.0) == 0


def test_counts_follow_arrivals_and_ends():
    """Refused requests count, but not as answered."""
    ledger = Ledger()
    first, second = _entry(1, t=0.0), _entry(2, t=1.0, status=429, model="n")
    ledger.open(first)
    ledger.open(second)
    ledger.close(first, t=2.0)

    counts = ledger.counts()
    assert counts["total"] == 2
    assert counts["by_status"] == {"200": 1, "429": 1}
    assert counts["by_model"] == {"m": 1, "n": 1}
    assert (counts["in_flight"], counts["max_in_flight"]) == (1, 2)
    assert counts["max_in_any_60s"] == {"all": 2, "answered_2xx": 1}
    assert first.t_end == 2.0


def test_the_ring_is_bounded_and_a_reset_keeps_what_runs():
    """Old entries give way; a reset forgets the past, not the requests in flight."""
    ledger = Ledger(capacity=3)
    for n in range(5):
        ledger.open(_entry(n))

    assert [entry.n for entry in ledger.entries] == [2, 3, 4]

    ledger.reset()

    assert ledger.counts()["total"] == 0
    assert ledger.counts()["in_flight"] == 5
    assert ledger.counts()["max_in_flight"] == 5
