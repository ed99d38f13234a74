"""A pool of accounts as one quota: nothing is counted twice, nothing is promised that an account would refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_state.capacity import Line, first_dry, lines_of
from shared_state.limits import Algorithm, Dimension
from shared_state.statistics import MinuteRow
from shared_state.topology import ModelSpec, Topology
from shared_state.usage import DomainUse, WindowUse, rates_of, unit_name
from tests.redis.office import mesh

NOW_MS = 1_795_424_400_000
Uses = dict[str, dict[str, tuple[int, int]]]
LENGTHS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "M": 30 * 86_400_000}


def window(name: str, used: int, limit: int, *, held: int = 0) -> WindowUse:
    """A window by its name: sliding up to an hour, else a calendar whose period ends in an hour."""
    what, _, period = name.partition("p")
    algorithm = Algorithm.SLIDING if period in "mh" else Algorithm.CALENDAR
    dimension = {"r": Dimension.REQUESTS, "t": Dimension.TOKENS}[what]
    return WindowUse(
        name, algorithm, dimension, period, LENGTHS_MS[period], limit, used, held, NOW_MS + 3_600_000
    )


def use(domain: str, account: dict[str, tuple[int, int]], models: Uses) -> DomainUse:
    def scope(windows: dict[str, tuple[int, int]]) -> tuple[WindowUse, ...]:
        return tuple(window(name, *numbers) for name, numbers in windows.items())

    return DomainUse(domain, NOW_MS, scope(account), {model: scope(w) for model, w in models.items()})


def lines(
    topology: Topology,
    *uses: DomainUse,
    rates: dict[str, float] | None = None,
    is_active: Callable[[ModelSpec], bool] = lambda model: True,
    pool: str = "chat",
) -> dict[str, Line]:
    """The lines of a pool, by unit; ``rates`` are requests per second."""
    per_model = {model: {Dimension.REQUESTS: rate} for model, rate in (rates or {}).items()}
    found = lines_of(topology.pools[pool], {u.domain: u for u in uses}, per_model, is_active=is_active)
    return {unit_name(line.dimension, line.period): line for line in found}


TWO = mesh({"alpha.small": {}, "beta.one": {}})
SHARED = mesh(
    {"alpha.small": {}, "alpha.big": {}, "beta.one": {}}, pools={"chat": ["alpha.small", "alpha.big"]}
)


def test_two_accounts_add_up():
    """What each can still take, together."""
    found = lines(
        TWO,
        use("alpha", {}, {"alpha.small": {"rpd": (400, 1000)}}),
        use("beta", {"rpd": (10, 50)}, {"beta.one": {}}),
    )["requests_per_day"]

    assert (found.remaining, found.limit) == (640, 1050)


def test_what_leases_hold_is_not_there():
    """Nobody but their holders can take it."""
    alpha = DomainUse("alpha", NOW_MS, (window("rpd", 10, 100, held=5),), {"alpha.small": ()})
    found = lines(TWO, alpha, use("beta", {"rpd": (0, 1)}, {"beta.one": {}}))["requests_per_day"]

    assert found.remaining == 86


def test_models_of_one_account_share_it():
    """Two models with plenty each can take no more than their account."""
    found = lines(
        SHARED,
        use("alpha", {"rpd": (90, 100)}, {"alpha.small": {"rpd": (0, 80)}, "alpha.big": {"rpd": (0, 80)}}),
    )["requests_per_day"]

    assert (found.remaining, found.limit) == (10, 100)


def test_an_account_gives_no_more_than_its_models_take():
    """A roomy account behind narrow models."""
    found = lines(
        SHARED,
        use("alpha", {"rpd": (0, 1000)}, {"alpha.small": {"rpd": (75, 80)}, "alpha.big": {"rpd": (0, 80)}}),
    )["requests_per_day"]

    assert (found.remaining, found.limit) == (85, 160)


def test_a_model_in_the_pool_twice_is_one():
    """However a pool came to name it twice."""
    pool = TWO.pools["chat"]
    twice = type(pool)(pool.id, None, pool.strategy, (*pool.models, *pool.models), pool.config)
    uses = {
        "alpha": use("alpha", {}, {"alpha.small": {"rpd": (0, 7)}}),
        "beta": use("beta", {}, {"beta.one": {"rpd": (0, 5)}}),
    }
    (line,) = lines_of(twice, uses, {}, is_active=lambda model: True)

    assert line.remaining == 12


def test_a_long_window_bounds_the_short_one():
    """Five left for today are five left for this minute."""
    found = lines(
        TWO,
        use("alpha", {"rpd": (995, 1000)}, {"alpha.small": {"rpm": (0, 60)}}),
        use("beta", {}, {"beta.one": {"rpm": (50, 60)}}),
    )

    assert found["requests_per_minute"].remaining == 15
    assert found["requests_per_day"].remaining == math.inf


def test_one_member_without_a_limit_makes_a_pool_without_one():
    """It never runs dry, however fast."""
    found = lines(
        TWO,
        use("alpha", {}, {"alpha.small": {"rpd": (999, 1000)}}),
        use("beta", {}, {"beta.one": {}}),
        rates={"alpha.small": 100.0},
    )["requests_per_day"]

    assert (found.limit, found.remaining, found.dry_s) == (math.inf, math.inf, math.inf)


def test_standby_members_rest():
    """They are told apart, and their traffic presses on the others."""
    found = lines(
        TWO,
        use("alpha", {}, {"alpha.small": {"rpd": (0, 1000)}}),
        use("beta", {}, {"beta.one": {"rpd": (0, 100)}}),
        rates={"alpha.small": 1.0},
        is_active=lambda model: model.id == "beta.one",
    )["requests_per_day"]

    assert (found.remaining, found.resting, found.limit) == (100, 1000, 100)
    assert found.dry_s == pytest.approx(100)


def test_others_on_the_account_use_it_up_too():
    """A model outside the pool takes from the same account."""
    outside = mesh({"alpha.small": {}, "alpha.big": {}}, pools={"chat": ["alpha.small"]})
    found = lines(
        outside,
        use("alpha", {"rpd": (0, 100)}, {"alpha.small": {}, "alpha.big": {}}),
        rates={"alpha.big": 2.0, "alpha.small": 2.0},
    )["requests_per_day"]

    assert (found.rate, found.dry_s) == (4.0, pytest.approx(25))


def test_what_is_only_counted_bounds_nothing():
    """Full beyond its limit, and no line for it."""
    spent = replace(window("rpd", 9, 5), is_enforced=False)
    free = DomainUse("alpha", NOW_MS, (spent,), {"alpha.small": (), "alpha.big": ()})
    found = lines(SHARED, free, use("beta", {"rpm": (1, 5)}, {"beta.one": {}}), rates={"alpha.small": 1.0})

    assert found == {}


def test_the_first_quota_to_end_is_named():
    """A pool lasts as long as its scarcest quota."""
    found = lines(
        TWO,
        use("alpha", {"rpd": (0, 600)}, {"alpha.small": {"rpm": (0, 60)}}),
        use("beta", {"rpd": (0, 600)}, {"beta.one": {"rpm": (0, 60)}}),
        rates={"alpha.small": 1.0},
    )
    first = first_dry(found.values())

    assert first is not None
    assert unit_name(first.dimension, first.period) == "requests_per_day"
    assert first.dry_s == pytest.approx(1200)
    assert first_dry([]) is None


def test_a_pool_without_an_active_member_can_take_nothing():
    """And is dry now."""
    found = lines(
        TWO,
        use("alpha", {}, {"alpha.small": {"rpd": (0, 1000)}}),
        use("beta", {}, {"beta.one": {}}),
        is_active=lambda model: False,
    )["requests_per_day"]

    assert (found.remaining, found.limit, found.dry_s) == (0, 0, 0)


numbers = st.tuples(st.integers(0, 50), st.integers(1, 50))
scopes = st.dictionaries(st.sampled_from(["rpm", "rpd", "tpm", "tpM"]), numbers, max_size=4)


@given(scopes, scopes, scopes, scopes, scopes, st.floats(0, 100))
def test_no_line_promises_more_than_any_bound(alpha, beta, small, big, one, rate):
    """Not more than accounts, models or the limit allow; never negative, never dry in the past."""
    everyone = mesh({"alpha.small": {}, "alpha.big": {}, "beta.one": {}})
    a = use("alpha", alpha, {"alpha.small": small, "alpha.big": big})
    b = use("beta", beta, {"beta.one": one})
    found = lines(everyone, a, b, rates={"alpha.small": rate})

    for unit, line in found.items():
        bound = _bound(a, unit) + _bound(b, unit)
        assert 0 <= line.remaining <= bound
        assert line.remaining <= line.limit
        assert line.dry_s >= 0


def _bound(domain: DomainUse, unit: str) -> float:
    """What the windows of exactly that unit leave, accounts and models each for themselves."""

    def left(scope: tuple[WindowUse, ...]) -> float:
        own = [w.remaining for w in scope if unit_name(w.dimension, w.period) == unit]
        return min(own, default=math.inf)

    return min(left(domain.account), sum(left(scope) for scope in domain.models.values()))


def test_rates_are_per_second_since_the_first_minute():
    """Attempts and abandoned ones; a start of ten seconds ago is not two minutes of silence."""
    minute = NOW_MS // 60_000
    rows = [
        MinuteRow("alpha", "alpha.small", "chat", minute - 1, {"attempts": 50, "tokens_in": 60, "cost": 7}),
        MinuteRow(
            "alpha", "alpha.small", "other", minute, {"attempts": 20, "abandoned": 5, "tokens_out": 90}
        ),
    ]
    rates: Any = rates_of(rows, now_s=minute * 60 + 15)["alpha.small"]

    assert rates[Dimension.REQUESTS] == pytest.approx(1.0)
    assert rates[Dimension.TOKENS] == pytest.approx(2.0)
    assert rates_of([], now_s=0) == {}
    assert rates_of(rows[1:], now_s=minute * 60 + 1)["alpha.small"][Dimension.REQUESTS] == pytest.approx(2.5)
