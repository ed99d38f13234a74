"""When a quota runs dry: never before now, never later than a plain simulation says, and not at all where it refills in time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_state.forecast import Tank, runs_dry_in

DAY = 86_400.0
amounts = st.floats(0, 1e6)
rates = st.floats(0, 1e4)
periods = st.sampled_from([60.0, 3600.0, DAY, 30 * DAY])


@st.composite
def calendars(draw) -> Tank:
    period, size = draw(periods), draw(amounts)
    return Tank(draw(st.floats(0, 1)) * size, size, period, reset_s=draw(st.floats(0, 1)) * period)


@st.composite
def sliding(draw) -> Tank:
    period, size = draw(periods), draw(amounts)
    used = draw(st.floats(0, 1)) * size
    return Tank(size - used, size, period, inflow=used / period)


tanks = st.lists(st.one_of(calendars(), sliding()), min_size=1, max_size=5)


def window(limit: float, used: float, period_s: float = 60.0) -> Tank:
    """A sliding window that was filled evenly."""
    return Tank(limit - used, limit, period_s, inflow=used / period_s)


def calendar(limit: float, used: float, reset_s: float, period_s: float = DAY) -> Tank:
    return Tank(limit - used, limit, period_s, reset_s=reset_s)


@pytest.mark.parametrize(
    ("quota", "rate", "dry_s"),
    [
        (calendar(1000, 400, 3600), 1.0, 600),  # gone before the day ends
        (calendar(1000, 400, 500), 1 / 100, math.inf),  # the day ends first, and the next ones suffice
        (calendar(1000, 400, 500), 1.0, 1500),  # it survives this day, and not the next
        (calendar(1000, 1000, 500), 0.0, 0),  # it is dry already
        (window(60, 30), 0.5, math.inf),  # what comes in has left as fast
        (window(60, 30), 1.0, math.inf),  # exactly its limit
        (window(60, 0), 2.0, 30),
        (window(60, 30), 2.0, 20),  # half a request a second comes back meanwhile
        (Tank(10, 60, 60, inflow=1.0), 2.0, 10),  # a token bucket
    ],
)
def test_one_quota(quota, rate, dry_s):
    """Calendars reset, sliding windows refill."""
    assert runs_dry_in([quota], rate) == pytest.approx(dry_s)


def test_accounts_are_one_quota():
    """What one account no longer gives, the others do; a reset in between counts."""
    two = [calendar(100, 90, 1000), calendar(100, 0, 50_000)]

    assert runs_dry_in(two, 1.0) == pytest.approx(110)
    assert runs_dry_in([calendar(100, 90, 60), calendar(100, 0, 50_000)], 1.0) > 110


def test_a_window_that_refills_beside_a_calendar():
    """The window alone gives one a second for ever; the day's quota is eaten by the rest."""
    assert runs_dry_in([window(60, 0), calendar(1000, 0, DAY)], 2.0) == pytest.approx(1060, rel=0.1)
    assert runs_dry_in([window(60, 0), calendar(1000, 0, DAY)], 1.0) == math.inf


@given(tanks, rates)
def test_it_is_never_in_the_past(several, rate):
    """Nor is it ever not a number."""
    assert runs_dry_in(several, rate) >= 0


@given(tanks)
def test_without_use_nothing_runs_dry(several):
    """As long as anything is left."""
    wanted = math.inf if sum(tank.left for tank in several) > 0 else 0

    assert runs_dry_in(several, 0.0) == wanted


@given(st.lists(sliding(), min_size=1, max_size=5), st.floats(0, 1))
def test_what_refills_as_fast_never_runs_dry(several, share):
    """At or below the rate that the windows sustain together."""
    if sum(tank.left for tank in several) > 0:
        assert runs_dry_in(several, share * sum(tank.size / tank.period_s for tank in several)) == math.inf


@given(st.one_of(calendars(), sliding()), rates, st.floats(1, 10))
def test_faster_use_is_never_dry_later(tank, rate, factor):
    """For a single quota."""
    assert runs_dry_in([tank], rate * factor) <= runs_dry_in([tank], rate) * (1 + 1e-9) + 1e-6


@given(calendars(), st.floats(1e-3, 1e4))
def test_a_calendar_is_followed_exactly(tank, rate):
    """Against the plain account of the first period and the next."""
    first = tank.left / rate
    if tank.left <= 0:
        wanted = 0.0
    elif first < tank.reset_s:
        wanted = first
    elif tank.size / rate < tank.period_s:
        wanted = tank.reset_s + tank.size / rate
    else:
        wanted = math.inf

    assert runs_dry_in([tank], rate) == pytest.approx(wanted, rel=1e-6, abs=1e-6)


@given(st.integers(1, 500), st.floats(0, 0.95), st.floats(0.1, 30))
def test_a_sliding_window_is_followed_exactly(limit, part, rate):
    """Against a second by second account of what came and what left."""
    history = [part * limit / 60] * 60
    used, dry_s = sum(history), math.inf
    for second in range(240):
        if limit - used <= 1e-9:
            dry_s = second
            break
        history.append(rate)
        used += rate - history[second]
    found = runs_dry_in([window(limit, part * limit)], rate)

    assert found == dry_s or abs(found - dry_s) <= 1.0 or abs(rate * 60 - limit) < 1
