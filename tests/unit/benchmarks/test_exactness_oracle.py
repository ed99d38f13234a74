"""The oracle of the outside test: it finds an excess of every kind of window, and only that."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.exactness_oracle import Arrival, Balance, compare, judge
from benchmarks.exactness_windows import Price, Window

_T = 1_800_000_000.0


def _window(kind: str, limit: float, **more: Any) -> Window:
    return Window("w", frozenset({"m", "n"}), kind, limit, **more)


def _calls(*times: float, model: str = "m", tokens_in: int = 0, tokens_out: int = 0) -> list[Arrival]:
    return [Arrival(model, _T + t, tokens_in, tokens_out, _T + t) for t in times]


def _over(window: Window, calls: list[Arrival]) -> float:
    return judge(window, calls).over


def _at(text: str, zone: str) -> Arrival:
    at_s = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()
    return Arrival("m", at_s, 0, 0, at_s)


def _row(model: str, admitted: int, settled: int, abandoned: int, in_flight: int) -> dict[str, object]:
    return {
        "model": model,
        "admitted": admitted,
        "settled": settled,
        "abandoned": abandoned,
        "in_flight": in_flight,
    }


# windows that slide


@given(st.lists(st.integers(0, 800).map(lambda quarters: quarters / 4), max_size=40))
def test_the_fullest_interval_is_found(times):
    """No interval of 60 s, its end left out, held more than it says, and one held as many."""
    brute_force = max((sum(1 for t in times if end - 60 < t <= end) for end in times), default=0)

    assert judge(_window("rpm", 1), _calls(*times)).maximum == brute_force


def test_calls_a_whole_period_apart_do_not_share_an_interval():
    """One of 59.75 s does."""
    assert _over(_window("rpm", 2), _calls(0, 30, 60)) == 0
    assert _over(_window("rpm", 2), _calls(0.25, 30, 60)) == 1


def test_the_order_in_which_calls_are_told_does_not_matter():
    """Ledgers may be in any order, and name models that the window does not cover."""
    calls = _calls(60, 0.25, 30) + _calls(1, 2, model="other")

    assert _over(_window("rpm", 2), calls) == 1


@pytest.mark.parametrize(
    ("kind", "used"), [("tpm", 15), ("itpm", 10), ("otpm", 5), ("rpm", 1), ("tph", 15), ("otph", 5)]
)
def test_each_kind_counts_what_its_name_says(kind, used):
    """What was used counts, at the arrival of its call, for all models that share the window."""
    calls = _calls(0, tokens_in=10, tokens_out=5) + _calls(1, tokens_in=10, tokens_out=5, model="n")

    assert judge(_window(kind, 2 * used), calls).maximum == 2 * used
    assert _over(_window(kind, 2 * used), calls) == 0
    assert _over(_window(kind, 2 * used - 1), calls) == 1


# windows by the calendar


def test_a_day_begins_at_midnight_and_not_before():
    """A run across midnight may use both days in full, however close together."""
    calls = [_at("2026-11-25T23:59:59.9", "UTC"), _at("2026-11-26T00:00:00.1", "UTC")]

    assert _over(_window("rpd", 1), calls) == 0
    assert _over(_window("rpd", 1), [*calls, _at("2026-11-26T23:59:59", "UTC")]) == 1
    assert _over(_window("rpd", 1, algorithm="sliding"), calls) == 1


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "America/Los_Angeles", "Europe/Berlin"])
def test_a_day_is_that_of_the_zone(zone):
    """Also the day of 23 hours, and a day that begins at another hour."""
    spring = [_at("2026-03-29T00:30", zone), _at("2026-03-29T23:30", zone)]
    late = [_at("2026-11-25T05:59", zone), _at("2026-11-25T06:00", zone)]

    assert _over(_window("rpd", 1, timezone=zone), spring) == 1
    assert _over(_window("rpd", 1, timezone=zone), late) == 1
    assert _over(_window("rpd", 1, timezone=zone, reset_hour=6), late) == 0


def test_minutes_hours_weeks_and_months_have_their_own_beginnings():
    """Whole minutes; hours of a zone with half an hour; Monday; the first."""
    minutes = [_at("2026-11-25T10:00:59.9", "UTC"), _at("2026-11-25T10:01:00", "UTC")]
    hours = [_at("2026-11-25T10:29:59", "UTC"), _at("2026-11-25T10:30:00", "UTC")]
    weeks = [_at("2026-11-29T23:59", "UTC"), _at("2026-11-30T00:00", "UTC")]

    assert _over(_window("rpm", 1, algorithm="calendar"), minutes) == 0
    assert _over(_window("rpm", 1), minutes) == 1
    assert _over(_window("rph", 1, algorithm="calendar", timezone="Asia/Kolkata"), hours) == 0
    assert _over(_window("rph", 1, algorithm="calendar"), hours) == 1
    assert _over(_window("rpw", 1), weeks) == 0
    assert _over(_window("rpM", 1), weeks) == 1
    assert _over(_window("rpM", 1), [weeks[1], _at("2026-12-01T00:00", "UTC")]) == 0


def test_money_is_what_was_used_times_its_price():
    """Of each model its own; adding floats makes no excess."""
    prices = {"m": Price(input=1.0, output=4.0), "n": Price(output=10.0)}
    calls = _calls(0, tokens_in=1000, tokens_out=500) + _calls(1, tokens_out=100, model="n")

    assert judge(_window("usd_per_day", 0.004, prices=prices), calls).maximum == pytest.approx(0.004)
    assert _over(_window("usd_per_day", 0.004, prices=prices), calls) == 0
    assert _over(_window("usd_per_day", 0.0039, prices=prices), calls) == pytest.approx(0.0001)


# buckets, slots, distances


def test_a_bucket_may_be_emptied_at_once_and_then_drains_evenly():
    """Twice the limit in a minute that begins full is within it; one beyond its rate is not."""
    full = [0.0] * 60
    steady = [float(second) for second in range(1, 60)]

    assert _over(_window("rpm", 60, algorithm="token_bucket"), _calls(*full, *steady)) == 0
    assert _over(_window("rpm", 60, algorithm="token_bucket"), _calls(*full, *steady, 59.5)) > 0


def test_calls_that_overlap_share_slots():
    """An end makes room for a call of the same moment; a call without an end never does."""
    calls = [Arrival("m", 0, 0, 0, 2), Arrival("m", 1, 0, 0, 3), Arrival("m", 2, 0, 0, 3)]
    endless = [Arrival("m", 0, 0, 0, None), Arrival("n", 100, 0, 0, 101)]

    assert judge(_window("concurrency", 2), calls).maximum == 2
    assert _over(_window("concurrency", 1), calls) == 1
    assert _over(_window("concurrency", 1), endless) == 1


def test_an_early_call_is_forgiven_but_not_one_too_many():
    """Jitter of the way is less than one distance; a lead of many small steps is found as well."""
    jitter = [0.0, 0.13, 0.2, 0.33, 0.4]
    doubled = [0.0, 0.1, 0.1, 0.2, 0.3]
    hasty = [number * 0.09 for number in range(20)]

    assert _over(_window("min_delta", 0.1), _calls(*jitter)) == 0
    assert judge(_window("min_delta", 0.1), _calls(*jitter)).maximum == pytest.approx(0.07)
    assert _over(_window("min_delta", 0.1), _calls(*doubled)) > 0
    assert _over(_window("min_delta", 0.1), _calls(*hasty)) > 0
    assert _over(_window("min_delta", 0.1, slack=0.0), _calls(*jitter)) > 0


def test_nothing_that_arrived_is_within_every_limit():
    """Windows of all kinds can be judged on an empty ledger."""
    kinds = ("rpm", "tpd", "concurrency", "min_delta")

    assert [_over(_window(kind, 1), []) for kind in kinds] == [0.0] * len(kinds)


# books


def test_books_that_balance_are_clean():
    """A booking without a call is none too few: it was admitted and given back."""
    rows = [_row("m", 3, 2, 1, 0), _row("m", 1, 1, 0, 0), _row("n", 0, 0, 0, 0)]

    assert compare(_calls(0, 1, 2), rows) == Balance(abandoned=1)
    assert compare(_calls(0, 1, 2), rows).is_clean


@pytest.mark.parametrize(
    ("calls", "row", "found"),
    [
        pytest.param(3, ("m", 2, 2, 0, 0), Balance(lost=1), id="a call that nobody booked"),
        pytest.param(2, ("m", 3, 2, 0, 0), Balance(lost=1), id="an admission that vanished"),
        pytest.param(2, ("m", 2, 2, 1, 0), Balance(double=1, abandoned=1), id="settled and abandoned"),
        pytest.param(2, ("m", 3, 2, 0, 1), Balance(leaked=1), id="held though nothing runs"),
        pytest.param(1, ("other", 1, 1, 0, 0), Balance(lost=1), id="booked on another model"),
    ],
)
def test_what_is_off_has_a_name(calls, row, found):
    """Lost, double and leaked are told apart."""
    balance = compare(_calls(*range(calls)), [_row(*row)])

    assert balance == found
    assert not balance.is_clean
