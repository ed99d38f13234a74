"""Spent money of models and accounts: told by its reason, over with the calendar, judged once for the cluster."""

from __future__ import annotations

from collections.abc import Callable

from shared_state.config.checks import with_budget
from shared_state.config.limits import BudgetConfig, LimitsConfig
from shared_state.gates import build_gate
from shared_state.ledger import NOT_SENT, Ask, Code, Outcome, Settlement, Verdict
from shared_state.usage import read_domain_use
from tests.redis.ground import BIG, EPOCH_MS, LEASE_MS, SMALL, Bench, SteeredStore, make_pool

CENT = 10**7
HOUR_MS = 3_600_000
#: 09:00 UTC is 01:00 in Los Angeles, where the day ends 23 hours later, and the month after seven days more.
DAY_ENDS_MS = EPOCH_MS + 23 * HOUR_MS
MONTH_ENDS_MS = DAY_ENDS_MS + 7 * 24 * HOUR_MS
WEST = {"timezone": "America/Los_Angeles"}
DAILY = {"usd_per_day": 0.10, **WEST}
OpenBench = Callable[..., Bench]


async def reserve(b: Bench, cost: int, model: str = SMALL) -> tuple[str, Verdict]:
    """Asks for a request that may cost so much."""
    reservation = f"n1.m{next(b.numbers)}"
    b._models[reservation] = model
    (verdict,) = await b.ledger.admit([Ask(reservation, model, "chat", 1, 1, cost, LEASE_MS)])
    return reservation, verdict


async def pay(b: Bench, *costs: int, model: str = SMALL) -> None:
    """Requests of these costs (1e-9 USD), one after the other."""
    for cost in costs:
        reservation, verdict = await reserve(b, cost, model)
        assert verdict.code is Code.ADMITTED
        await b.end(reservation, tokens_in=1, tokens_out=1, cost_nano=cost)


async def test_a_spent_account_rests_until_its_own_day_ends(bench: OpenBench) -> None:
    """Every model of it; told to everybody, back with the calendar."""
    b = bench(account=DAILY)
    await pay(b, 4 * CENT)
    assert (await b.provider()).status == "active"
    await pay(b, 4 * CENT)
    state = await b.provider()

    assert (state.status, state.reason, state.mode) == ("standby", "budget_exceeded", "time")
    assert (state.until_ms, state.trigger) == (DAY_ENDS_MS, "quota_reset")
    assert (await b.model()).status == "active"
    assert (await reserve(b, 1, BIG))[1] == Verdict(Code.STANDBY, DAY_ENDS_MS, "budget_exceeded")
    assert [event["type"] for event in await b.news()] == ["budget_alert", "provider_deactivated"]
    await b.store.set_time(DAY_ENDS_MS)
    assert await b.recover() == [("p:alpha", "active")]
    await pay(b, 4 * CENT)


async def test_a_spent_model_rests_alone(bench: OpenBench) -> None:
    """Its neighbour on the account goes on."""
    b = bench(small=DAILY)
    await pay(b, 6 * CENT)
    state = await b.model()

    assert (state.reason, state.until_ms) == ("budget_exceeded", DAY_ENDS_MS)
    assert (await b.provider()).status == "active"
    await pay(b, 6 * CENT, model=BIG)


async def test_of_day_and_month_the_longer_wait_holds(bench: OpenBench) -> None:
    """Both are spent at once."""
    b = bench(account={**DAILY, "usd_per_month": 0.10})
    await pay(b, 9 * CENT)

    assert (await b.provider()).until_ms == MONTH_ENDS_MS


async def test_what_is_only_reserved_reaches_no_budget(bench: OpenBench) -> None:
    """Two calls of both models are in flight when a third ends: what they hold may come back."""
    b = bench(account=DAILY)
    (one, _), (two, _) = await reserve(b, 4 * CENT), await reserve(b, 3 * CENT, BIG)
    await pay(b, 2 * CENT)
    assert (await b.provider()).status == "active"

    await b.end(one, Outcome.NEUTRAL, flags=NOT_SENT)
    await b.end(two, tokens_in=1, tokens_out=1, cost_nano=CENT)
    assert (await b.provider()).status == "active"


async def test_an_account_is_judged_by_the_cheapest_of_the_calls_that_end_together(bench: OpenBench) -> None:
    """A dear call of one model does not put a cheap one out of work."""
    b = bench(account=DAILY)
    (dear, _), (cheap, _) = await reserve(b, 8 * CENT), await reserve(b, CENT, BIG)
    ends = [(cheap, BIG, CENT), (dear, SMALL, 8 * CENT)]
    await b.ledger.settle(
        [Settlement(name, model, b.pool, Outcome.SUCCESS, 1, 1, cost) for name, model, cost in ends]
    )

    assert (await b.provider()).status == "active"
    await pay(b, CENT, model=BIG)
    assert (await b.provider()).reason == "budget_exceeded"


async def test_a_pool_may_leave_a_spent_budget_to_an_operator(bench: OpenBench) -> None:
    """``on_quota_reset: false``: no day brings the account back."""
    b = bench(account=DAILY)
    b.pool = b.pool.model_copy(
        update={"recovery": b.pool.recovery.model_copy(update={"on_quota_reset": False})}
    )
    await pay(b, 9 * CENT)
    await b.store.set_time(DAY_ENDS_MS + 1)
    state = await b.provider()

    assert (state.reason, state.mode, state.until_ms, state.trigger) == (
        "budget_exceeded",
        "manual",
        0,
        "manual",
    )
    assert await b.recover() == []
    await b.order("activate", kind="provider", name="alpha")
    await pay(b, 2 * CENT)


async def test_money_that_is_only_counted_refuses_nobody(bench: OpenBench) -> None:
    """``enforce: false``: it is told at the threshold, and what is used may be more than the limit."""
    watched = with_budget(LimitsConfig(**WEST), BudgetConfig(daily_limit=0.10, enforce=False))
    b = bench(account=watched.model_dump(exclude_unset=True), small=watched.model_dump(exclude_unset=True))
    await pay(b, 9 * CENT, 9 * CENT)
    use = await read_domain_use(b.store, b.domain, now_ms=EPOCH_MS)
    (window,) = use.account

    assert ((await b.model()).status, (await b.provider()).status) == ("active", "active")
    assert [(event["type"], event["kind"]) for event in await b.news()] == [
        ("budget_alert", "account"),
        ("budget_alert", "model"),
    ]
    assert (window.used, window.limit, window.share) == (18 * CENT, 10 * CENT, 1.0)
    assert (window.is_enforced, window.dry_in({window.dimension: 1.0}, EPOCH_MS)) == (False, float("inf"))


async def test_a_gate_has_no_state_that_money_could_change(steered: SteeredStore) -> None:
    """The money of a pool refuses at its door; nothing there goes to standby."""
    b = Bench(steered, build_gate("pool:chat", LimitsConfig(usd_per_day=0.10)), pool=make_pool())
    await pay(b, 9 * CENT, model="*")
    (verdict,) = await b.ledger.admit([Ask("n1.more", "*", "", 1, 1, 2 * CENT, LEASE_MS)])

    assert (verdict.code, verdict.name) == (Code.AT_LIMIT, "usd_per_day")
