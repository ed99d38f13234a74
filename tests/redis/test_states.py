"""How models and accounts leave the traffic and come back: thresholds, waits, orders, and the news of each change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson
import pytest

from shared_state.ledger import NOT_SENT, Code, Outcome, Verdict
from tests.redis.ground import BIG, EPOCH_MS, PROVIDER, SMALL, Bench, make_pool

OpenBench = Callable[..., Bench]
COOLDOWN_MS = 60_000


async def fail(bench: Bench, times: int, outcome: Outcome = Outcome.FAILURE, model: str = SMALL) -> None:
    """So many failed attempts, one after the other."""
    for _ in range(times):
        assert not (await bench.attempt(outcome, model)).code


# -- failures


async def test_consecutive_failures_put_a_model_on_standby(bench: OpenBench) -> None:
    """At the limit, not before; for the cooldown; then it needs a trial."""
    b = bench(make_pool(retry_limit=3))
    await fail(b, 2)
    assert (await b.model()).status == "active"

    await fail(b, 1)
    state = await b.model()
    assert (state.status, state.reason, state.mode) == ("standby", "error_threshold", "trial")
    assert (state.since_ms, state.until_ms) == (EPOCH_MS, EPOCH_MS + COOLDOWN_MS)
    assert await b.attempt() == Verdict(Code.STANDBY, EPOCH_MS + COOLDOWN_MS, "error_threshold")
    assert await b.due() == {f"m:{SMALL}": EPOCH_MS + COOLDOWN_MS}


async def test_a_success_forgives_what_was_before(bench: OpenBench) -> None:
    """Only failures in a row count for the first threshold."""
    b = bench(make_pool(retry_limit=3, error_min_requests=100))
    for _ in range(4):
        await fail(b, 2)
        await b.attempt()

    assert (await b.model()).status == "active"


@pytest.mark.parametrize("outcome", [Outcome.NEUTRAL, Outcome.SUCCESS])
async def test_a_callers_own_mistake_harms_nobody(bench: OpenBench, outcome: Outcome) -> None:
    """However often it is made."""
    b = bench(make_pool(retry_limit=1, error_min_requests=1))
    for _ in range(20):
        await b.attempt(outcome)

    assert (await b.model()).is_open(EPOCH_MS)
    assert (await b.model()).fails == 0
    assert await b.epoch() == 0


async def test_the_error_rate_is_judged_from_a_least_volume_on(bench: OpenBench) -> None:
    """Four of eight are half; but eight outcomes must have been seen."""
    b = bench(make_pool(retry_limit=100, error_rate_threshold=0.5, error_min_requests=8))
    for _ in range(3):
        await fail(b, 1)
        await b.attempt()
    await b.attempt()
    assert (await b.model()).status == "active"

    await fail(b, 1)
    assert (await b.model()).reason == "error_threshold"


async def test_the_error_rate_forgets_what_is_older_than_its_window(bench: OpenBench) -> None:
    """Failures of the hour before say nothing about now."""
    b = bench(make_pool(retry_limit=100, error_min_requests=4, error_window="60s"))
    await fail(b, 3)
    await b.store.pass_time(66_000)
    for _ in range(3):
        await b.attempt()
    await fail(b, 2)

    assert (await b.model()).status == "active"


async def test_an_outage_does_not_count_against_the_time_after_it(bench: OpenBench) -> None:
    """A model that comes back begins with a clean rate."""
    b = bench(make_pool(retry_limit=100, error_min_requests=4, error_rate_threshold=0.5, ramp=[1.0]))
    await fail(b, 4)
    await b.store.pass_time(COOLDOWN_MS)
    assert (await b.attempt()).trial
    for outcome in (Outcome.SUCCESS, Outcome.SUCCESS, Outcome.FAILURE, Outcome.SUCCESS):
        await b.attempt(outcome)

    assert (await b.model()).status == "active"


async def test_one_model_fails_for_itself(bench: OpenBench) -> None:
    """Its neighbour on the account goes on."""
    b = bench(make_pool(retry_limit=1))
    await fail(b, 1)

    assert (await b.attempt(model=BIG)) == Verdict(Code.ADMITTED)
    assert (await b.provider()).status == "active"


async def test_the_cooldown_doubles_up_to_its_cap(bench: OpenBench) -> None:
    """Each failed trial waits twice as long; a success on all steps begins anew."""
    b = bench(make_pool(retry_limit=1, cooldown="60s", max_cooldown="300s", ramp=[1.0]))
    waits = []
    await fail(b, 1)
    for _ in range(5):
        until_ms = (await b.model()).until_ms
        waits.append((until_ms - await b.now_ms()) // 1000)
        await b.store.set_time(until_ms)
        assert (await b.attempt(Outcome.FAILURE)).trial
    await b.store.set_time((await b.model()).until_ms)
    await b.attempt()
    await fail(b, 1)

    assert waits == [60, 120, 240, 300, 300]
    assert (await b.model()).until_ms - await b.now_ms() == 60_000


# -- what the provider says


async def test_a_rate_limit_waits_as_long_as_asked_and_needs_no_trial(bench: OpenBench) -> None:
    """One model on one account; it comes back by itself."""
    b = bench()
    await b.attempt(Outcome.RATE_LIMITED, retry_after_ms=7000)
    state = await b.model()

    assert (state.reason, state.mode, state.until_ms) == ("rate_limited", "time", EPOCH_MS + 7000)
    assert (await b.attempt(model=BIG)).code == Code.ADMITTED
    await b.store.pass_time(7000)
    assert await b.attempt() == Verdict(Code.ADMITTED)
    assert (await b.model()).status == "active"
    assert await b.due() == {}


async def test_a_later_word_may_lengthen_a_wait_never_shorten_it(bench: OpenBench) -> None:
    """Answers to requests that were in flight together arrive in any order."""
    b = bench()
    first, second, third = [(await b.admit())[0] for _ in range(3)]
    await b.end(first, Outcome.RATE_LIMITED, retry_after_ms=20_000)
    await b.end(second, Outcome.RATE_LIMITED, retry_after_ms=1000)
    assert (await b.model()).until_ms == EPOCH_MS + 20_000

    await b.end(third, Outcome.RATE_LIMITED, retry_after_ms=30_000)
    assert (await b.model()).until_ms == EPOCH_MS + 30_000
    assert await b.due() == {f"m:{SMALL}": EPOCH_MS + 30_000}


async def test_a_rate_limit_does_not_pardon_a_trial_that_is_owed(bench: OpenBench) -> None:
    """A model that was failing and is then told to wait is still not trusted."""
    b = bench(make_pool(retry_limit=1))
    late, _ = await b.admit()
    await fail(b, 1)
    await b.end(late, Outcome.RATE_LIMITED, retry_after_ms=90_000)
    state = await b.model()

    assert (state.reason, state.mode, state.until_ms) == ("error_threshold", "trial", EPOCH_MS + 90_000)


async def test_refused_credentials_take_the_whole_account_out(bench: OpenBench) -> None:
    """No model of it is asked until the cooldown is over; then one trial decides for all."""
    b = bench()
    await b.attempt(Outcome.CREDENTIALS)
    state = await b.provider()

    assert (state.reason, state.mode, state.until_ms) == ("auth", "trial", EPOCH_MS + COOLDOWN_MS)
    assert await b.attempt(model=BIG) == Verdict(Code.STANDBY, EPOCH_MS + COOLDOWN_MS, "auth")
    assert (await b.model()).status == "active"
    await b.store.pass_time(COOLDOWN_MS)
    assert (await b.attempt(model=BIG)).trial
    assert (await b.provider()).status == "active"


async def test_a_spent_quota_waits_for_its_reset(bench: OpenBench) -> None:
    """As long as the provider says, but no shorter than the cooldown."""
    b = bench()
    first, second = [(await b.admit())[0] for _ in range(2)]
    await b.end(first, Outcome.QUOTA, retry_after_ms=5000)
    assert (await b.provider()).until_ms == EPOCH_MS + COOLDOWN_MS

    await b.end(second, Outcome.QUOTA, retry_after_ms=3_600_000)
    state = await b.provider()
    assert (state.reason, state.until_ms) == ("quota_exhausted", EPOCH_MS + 3_600_000)


async def test_a_provider_that_nobody_reaches_is_out(bench: OpenBench) -> None:
    """Five lost connections in a row, whichever models they were for."""
    b = bench(make_pool(retry_limit=3))
    calls = [await b.admit(model) for model in (SMALL, BIG) * 3]
    for reservation, _ in calls[:4]:
        await b.end(reservation, Outcome.UNREACHABLE, flags=NOT_SENT)
    assert (await b.provider()).status == "active"

    await b.end(calls[4][0], Outcome.UNREACHABLE, flags=NOT_SENT)
    state = await b.provider()
    assert (state.status, state.reason, state.mode) == ("standby", "outage", "trial")


async def test_an_answer_of_any_model_ends_the_count_of_lost_connections(bench: OpenBench) -> None:
    """Whoever answers is reachable."""
    b = bench(make_pool(retry_limit=100, error_min_requests=100))
    for _ in range(3):
        await fail(b, 4, Outcome.UNREACHABLE)
        await b.attempt(model=BIG)

    assert (await b.provider()).status == "active"


# -- operators


async def test_an_order_holds_until_further_notice(bench: OpenBench) -> None:
    """Neither time nor the scheduler brings the model back."""
    b = bench()
    order = await b.order("deactivate")
    await b.store.pass_time(10 * 86_400_000)

    assert (order.status, order.reason, order.until_ms) == ("standby", "manual", 0)
    assert await b.recover() == []
    assert await b.attempt() == Verdict(Code.STANDBY, 0, "manual")
    assert (await b.order("activate")).status == "active"
    assert await b.attempt() == Verdict(Code.ADMITTED)


@pytest.mark.parametrize("noticed_by", ["a request", "the scheduler"])
async def test_an_order_for_a_time_ends_by_itself(bench: OpenBench, noticed_by: str) -> None:
    """Without a trial: nobody said that the model is ill."""
    b = bench()
    order = await b.order("deactivate", kind="provider", name=PROVIDER, for_s=30)
    assert order.until_ms == EPOCH_MS + 30_000
    assert await b.attempt() == Verdict(Code.STANDBY, EPOCH_MS + 30_000, "manual")

    await b.store.pass_time(30_000)
    if noticed_by == "the scheduler":
        assert await b.recover() == [(f"p:{PROVIDER}", "active")]
    assert await b.attempt() == Verdict(Code.ADMITTED)
    assert (await b.provider()).status == "active"
    assert await b.due() == {}


async def test_an_order_wins_over_what_happens_by_itself(bench: OpenBench) -> None:
    """Whatever is settled meanwhile changes neither reason nor time."""
    b = bench(make_pool(retry_limit=1))
    outcomes = [Outcome.FAILURE, Outcome.RATE_LIMITED, Outcome.SUCCESS, Outcome.UNREACHABLE]
    calls = [(await b.admit())[0] for _ in outcomes]
    await b.order("deactivate")
    for reservation, outcome in zip(calls, outcomes, strict=True):
        await b.end(reservation, outcome, retry_after_ms=99_000)
    state = await b.model()

    assert (state.reason, state.mode, state.until_ms) == ("manual", "manual", 0)
    assert await b.due() == {}


async def test_an_order_replaces_an_automatic_standby(bench: OpenBench) -> None:
    """Also when it ends sooner: the operator knows best."""
    b = bench(make_pool(retry_limit=1, cooldown="600s"))
    await fail(b, 1)
    await b.order("deactivate", for_s=10)
    state = await b.model()

    assert (state.reason, state.until_ms) == ("manual", EPOCH_MS + 10_000)
    assert await b.due() == {f"m:{SMALL}": EPOCH_MS + 10_000}


async def test_an_order_to_activate_needs_no_trial(bench: OpenBench) -> None:
    """And leaves no grudge: the next cooldown is a first one."""
    b = bench(make_pool(retry_limit=1))
    await fail(b, 1)
    await b.order("activate")
    assert await b.attempt() == Verdict(Code.ADMITTED)

    await fail(b, 1)
    assert (await b.model()).until_ms == EPOCH_MS + COOLDOWN_MS


# -- news


async def test_every_change_raises_the_epoch_and_is_published(bench: OpenBench) -> None:
    """Subscribers see each change once, in order, with the epoch that a reader will find."""
    b = bench(make_pool(retry_limit=1, ramp=[0.5, 1.0]))
    pubsub = b.store.client.pubsub()
    await pubsub.subscribe(b.store.keys.channel)
    await fail(b, 1)
    await b.store.pass_time(COOLDOWN_MS)
    await b.recover()
    await b.attempt()
    await b.store.pass_time(1000)
    for _ in range(3):
        await b.attempt()
    await b.order("deactivate", kind="provider", name=PROVIDER)
    news = await b.news()
    async with asyncio.timeout(30):
        heard = [await pubsub.get_message(timeout=1) for _ in range(1 + len(news))][1:]
    await pubsub.aclose()

    assert [event["type"] for event in news] == [
        "model_deactivated",
        "model_ready",
        "model_trial",
        "model_activated",
        "model_ramp",
        "provider_deactivated",
    ]
    assert [event["epoch"] for event in news] == list(range(1, len(news) + 1))
    assert [orjson.loads(message["data"]) for message in heard] == news
    assert await b.epoch() == b.ledger.epoch + 1 == len(news)
    assert {event["domain"] for event in news} == {"alpha"}
    assert [event["node"] for event in news] == ["n1", "scheduler", "n1", "n1", "n1", ""]


async def test_the_news_are_kept_within_bounds(bench: OpenBench) -> None:
    """The last hundred, newest first."""
    b = bench()
    for _ in range(60):
        await b.order("deactivate")
        await b.order("activate")
    news = await b.news()

    assert [event["epoch"] for event in news] == list(range(21, 121))


async def test_traffic_as_usual_is_no_news(bench: OpenBench) -> None:
    """Success, refusal at a limit and a single failure leave the epoch alone."""
    b = bench(small={"rpm": 3})
    await b.attempt()
    await b.attempt(Outcome.FAILURE)
    await b.attempt()
    assert (await b.attempt()).code == Code.AT_LIMIT

    assert (b.ledger.epoch, await b.news()) == (0, [])
