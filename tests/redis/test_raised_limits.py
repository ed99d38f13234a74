"""A raised budget or cap ends the standby that it has brought about, once for the cluster, and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from scheduler.jobs.rests import Rests
from scheduler.pulses import Pulses
from shared_state.domains import Kind, lift_rests
from shared_state.errors import FencedOffError
from shared_state.ledger import Code, Outcome, Verdict
from shared_state.topology import DomainSpec
from tests.redis.ground import BIG, EPOCH_MS, PROVIDER, SMALL, Bench, make_domain, make_mesh, make_pool
from tests.redis.test_budgets import CENT, DAILY, DAY_ENDS_MS, pay, reserve
from tests.redis.test_caps import capped

OpenBench = Callable[..., Bench]
#: Twice the day's money of `DAILY`.
MORE = {**DAILY, "usd_per_day": 0.20}


async def lift(
    b: Bench, domain: DomainSpec, *, kind: Kind = "model", token: int = 1
) -> list[tuple[str, str]]:
    """The scheduler's look, under another configuration of the domain; nodes run it as well."""
    b.ledger.follow(domain)
    name = SMALL if kind == "model" else PROVIDER
    return await lift_rests(b.store, domain, [(kind, name)], token=token, now_ms=await b.now_ms())


async def test_a_raised_budget_brings_its_model_back(bench: OpenBench) -> None:
    """Told to everybody, with what has brought it back; said again it changes nothing."""
    b = bench(small=DAILY)
    await pay(b, 6 * CENT)
    assert (await b.model()).reason == "budget_exceeded"
    lifted = [await lift(b, make_domain(small=MORE)) for _ in range(2)]
    state = await b.model()

    assert lifted == [[("model", SMALL)], []]
    assert (state.status, state.trigger, state.until_ms) == ("active", "limit_raised", 0)
    assert (await b.news())[-1]["type"] == "model_activated"
    assert await b.due() == {}
    await pay(b, 6 * CENT)


@pytest.mark.parametrize("usd", [0.10, 0.11, 0.119])
async def test_a_budget_without_room_for_another_call_brings_nobody_back(
    bench: OpenBench, usd: float
) -> None:
    """By the rule that took it out: the last call cost six cents, six are spent."""
    b = bench(small=DAILY)
    await pay(b, 6 * CENT)
    before = await b.model()

    assert await lift(b, make_domain(small={**DAILY, "usd_per_day": usd})) == []
    assert await b.model() == before


@pytest.mark.parametrize("limits", [{}, {"usd_per_day": 0.10, "usd_enforced": False}])
async def test_a_budget_that_refuses_nobody_any_more_brings_back(
    bench: OpenBench, limits: dict[str, Any]
) -> None:
    """It was removed, or only counts."""
    b = bench(account=DAILY)
    await pay(b, 9 * CENT)

    assert await lift(b, make_domain(account=limits), kind="provider") == [("provider", PROVIDER)]
    assert (await b.provider()).status == "active"
    await pay(b, 9 * CENT, model=BIG)


async def test_what_is_only_reserved_keeps_nobody_away(bench: OpenBench) -> None:
    """As it takes nobody out: four of twelve cents may come back."""
    b = bench(account=DAILY)
    await reserve(b, 4 * CENT, BIG)
    await pay(b, 6 * CENT)

    assert await lift(b, make_domain(account={**DAILY, "usd_per_day": 0.12}), kind="provider")


async def test_a_month_that_is_spent_still_holds(bench: OpenBench) -> None:
    """Raising the day's budget alone frees nothing."""
    b = bench(small={**DAILY, "usd_per_month": 0.10})
    await pay(b, 9 * CENT)

    assert await lift(b, make_domain(small={**MORE, "usd_per_month": 0.10})) == []
    assert await lift(b, make_domain(small={**DAILY, "usd_per_month": 1.0})) == []
    assert await lift(b, make_domain(small={**MORE, "usd_per_month": 1.0})) == [("model", SMALL)]
    assert (await b.model()).status == "active", "the day was no wait of its own"


@pytest.mark.parametrize("cap", ["request_limit", "token_limit"])
async def test_a_raised_cap_brings_its_model_back(bench: OpenBench, cap: str) -> None:
    """Requests, and tokens of calls like the last one."""
    b = bench()
    b.ledger.follow(capped({}, {"quota_window": "daily", cap: 2}))
    for _ in range(2):
        reservation, verdict = await b.admit()
        assert verdict == Verdict(Code.ADMITTED)
        await b.end(reservation, tokens_in=1, tokens_out=0)
    assert (await b.model()).reason == cap

    assert await lift(b, capped({}, {"quota_window": "daily", cap: 2})) == []
    assert await lift(b, capped({}, {"quota_window": "daily", cap: 3})) == [("model", SMALL)]


async def test_an_order_stays(bench: OpenBench) -> None:
    """An operator's, and a budget that was left to an operator."""
    b = bench(small=DAILY)
    await pay(b, 6 * CENT)
    await b.order("deactivate", for_s=(DAY_ENDS_MS - EPOCH_MS) / 1000)
    assert await lift(b, make_domain(small={})) == []

    await b.order("activate")
    b.ledger.follow(make_domain(small=DAILY))
    b.pool = b.pool.model_copy(
        update={"recovery": b.pool.recovery.model_copy(update={"on_quota_reset": False})}
    )
    await pay(b, 4 * CENT)
    assert (await b.model()).mode == "manual"
    assert await lift(b, make_domain(small={})) == []


async def test_what_rests_for_something_else_is_left_alone(bench: OpenBench) -> None:
    """A 429 that lasts beyond the day, and a cooldown, have nothing to do with money."""
    b = bench(small=DAILY)
    await pay(b, 2 * CENT)
    held, _ = await reserve(b, CENT)
    await pay(b, 5 * CENT)
    await b.end(held, Outcome.RATE_LIMITED, retry_after_ms=DAY_ENDS_MS - EPOCH_MS + 1000, cost_nano=0)
    state = await b.model()
    assert (state.reason, state.until_ms) == ("rate_limited", DAY_ENDS_MS + 1000)

    assert await lift(b, make_domain(small={})) == []


async def test_what_was_waited_for_besides_is_waited_for_still(bench: OpenBench) -> None:
    """A failing model cools down to its end and owes its trial."""
    b = bench(make_pool(retry_limit=1, cooldown="60s"), small=DAILY)
    held, _ = await reserve(b, CENT)
    reservation, _ = await reserve(b, CENT)
    await b.end(reservation, Outcome.FAILURE, cost_nano=0)
    await b.end(held, tokens_in=1, tokens_out=1, cost_nano=9 * CENT)
    resting = await b.model()
    assert (resting.reason, resting.mode, resting.until_ms) == ("budget_exceeded", "trial", DAY_ENDS_MS)

    assert await lift(b, make_domain(small={})) == [("model", SMALL)]
    state = await b.model()
    assert (state.status, state.reason, state.mode) == ("standby", "error_threshold", "trial")
    assert (state.until_ms, await b.due()) == (EPOCH_MS + 60_000, {f"m:{SMALL}": EPOCH_MS + 60_000})
    await b.store.pass_time(60_000)
    assert (await b.admit())[1].trial


async def test_a_trial_that_is_owed_may_be_made_at_once_when_its_cooldown_is_over(bench: OpenBench) -> None:
    """Only the money was waited for."""
    b = bench(make_pool(retry_limit=1, cooldown="60s"), small=DAILY)
    held, _ = await reserve(b, CENT)
    reservation, _ = await reserve(b, CENT)
    await b.end(reservation, Outcome.FAILURE, cost_nano=0)
    await b.end(held, tokens_in=1, tokens_out=1, cost_nano=9 * CENT)
    await b.store.pass_time(120_000)
    await lift(b, make_domain(small={}))

    assert (await b.news())[-1]["type"] == "model_ready"
    assert (await b.admit())[1].trial


async def test_a_scheduler_that_has_lost_the_lead_lifts_nothing(bench: OpenBench) -> None:
    """Its configuration may be an old one."""
    b = bench(small=DAILY)
    await pay(b, 6 * CENT)
    await b.recover(token=5)

    with pytest.raises(FencedOffError):
        await lift(b, make_domain(small=MORE), token=4)
    assert (await b.model()).status == "standby"


async def test_the_scheduler_finds_what_has_room_by_its_configuration(bench: OpenBench) -> None:
    """The model and the account at its first look; what a node of the former limits puts on standby afterwards as well."""
    b = bench(account=DAILY, small=DAILY)
    await pay(b, 4 * CENT)
    held, _ = await reserve(b, CENT)
    await pay(b, 4 * CENT)
    assert {(await b.model()).status, (await b.provider()).status} == {"standby"}
    mesh = make_mesh(account=MORE, small=MORE)
    job = Rests(b.store, mesh, Pulses(b.store, tuple(mesh.domains), fresh_s=0))
    await job.run(1)
    assert {(await b.model()).status, (await b.provider()).status} == {"active"}

    await b.end(held, tokens_in=1, tokens_out=1, cost_nano=3 * CENT)  # by the limits before
    assert {(await b.model()).status, (await b.provider()).status} == {"standby"}
    await job.run(1)
    assert {(await b.model()).status, (await b.provider()).status} == {"active"}
