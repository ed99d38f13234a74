"""What takes a whole account out and what brings it back, by ``provider_deactivation`` and ``provider_recovery``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shared_state.config import PoolConfig
from shared_state.ledger import Code, Outcome, Verdict
from tests.redis.ground import BIG, EPOCH_MS, PROVIDER, SMALL, Bench, make_pool

OpenBench = Callable[..., Bench]
COOLDOWN_MS = 60_000


def rules(**keys: Any) -> PoolConfig:
    """Rules of a pool with these keys of its top level; errors alone take nobody out."""
    return make_pool(retry_limit=100, error_min_requests=100).model_copy(update=keys)


async def lose(bench: Bench, times: int) -> None:
    """So many lost connections in a row."""
    for _ in range(times):
        await bench.attempt(Outcome.UNREACHABLE)


async def test_credentials_may_concern_one_model_alone(bench: OpenBench) -> None:
    """``on_api_outage`` says that nothing else takes the account out: the model rests at once, its neighbour does not."""
    b = bench(rules(provider_deactivation="on_api_outage"))
    await b.attempt(Outcome.CREDENTIALS)
    state = await b.model()

    assert (state.reason, state.mode, state.until_ms) == ("auth", "trial", EPOCH_MS + COOLDOWN_MS)
    assert (await b.provider()).status == "active"
    assert await b.attempt(model=BIG) == Verdict(Code.ADMITTED)


async def test_a_model_whose_credentials_stay_refused_waits_twice_as_long(bench: OpenBench) -> None:
    """Its trial failed like any other."""
    b = bench(rules(provider_deactivation="on_api_outage"))
    await b.attempt(Outcome.CREDENTIALS)
    await b.store.pass_time(COOLDOWN_MS)
    assert (await b.attempt(Outcome.CREDENTIALS)).trial

    assert (await b.model()).until_ms == await b.now_ms() + 2 * COOLDOWN_MS


async def test_an_outage_may_be_left_to_the_models(bench: OpenBench) -> None:
    """``on_auth_failure`` alone: ten lost connections leave the account in."""
    b = bench(rules(provider_deactivation="on_auth_failure"))
    await lose(b, 10)
    assert (await b.provider()).status == "active"

    await b.attempt(Outcome.CREDENTIALS)
    assert (await b.provider()).reason == "auth"


@pytest.mark.parametrize(
    ("outcome", "times", "reason"), [(Outcome.CREDENTIALS, 1, "auth"), (Outcome.UNREACHABLE, 5, "outage")]
)
async def test_an_account_may_wait_for_an_operator(
    bench: OpenBench, outcome: Outcome, times: int, reason: str
) -> None:
    """``on_manual``: no time, no trial, no later failure changes anything."""
    b = bench(rules(provider_recovery="on_manual"))
    late, _ = await b.admit()
    for _ in range(times):
        await b.attempt(outcome)
    epoch = await b.epoch()
    await b.store.pass_time(10 * COOLDOWN_MS)
    await b.end(late, Outcome.CREDENTIALS)
    state = await b.provider()

    assert (state.reason, state.mode, state.until_ms, state.trigger) == (reason, "manual", 0, "manual")
    assert (await b.epoch(), await b.recover()) == (epoch, [])
    assert (await b.attempt(model=BIG)).code == Code.STANDBY
    assert (await b.order("activate", kind="provider", name=PROVIDER)).status == "active"
    assert await b.attempt() == Verdict(Code.ADMITTED)


async def test_a_spent_quota_may_wait_for_an_operator(bench: OpenBench) -> None:
    """``on_quota_reset: false`` holds for the account's own quota too; ``on_manual`` does not."""
    keep = rules(provider_recovery="on_manual")
    b = bench(keep)
    await b.attempt(Outcome.QUOTA, retry_after_ms=90_000)
    assert (await b.provider()).mode == "trial"

    b.pool = keep.model_copy(update={"recovery": keep.recovery.model_copy(update={"on_quota_reset": False})})
    await b.order("activate", kind="provider", name=PROVIDER)
    await b.attempt(Outcome.QUOTA, retry_after_ms=90_000)
    state = await b.provider()
    assert (state.reason, state.mode, state.until_ms) == ("quota_exhausted", "manual", 0)


# -- what brings an entity back


async def test_each_standby_says_what_is_to_end_it(bench: OpenBench) -> None:
    """And once it is over, what has."""
    b = bench(make_pool(retry_limit=1, ramp=[1.0]))
    seen = []

    async def note() -> None:
        seen.append((await b.model()).trigger)

    await b.attempt(Outcome.RATE_LIMITED, retry_after_ms=1000)
    await note()
    await b.store.pass_time(1000)
    await b.attempt(Outcome.FAILURE)
    await note()
    await b.store.pass_time(COOLDOWN_MS)
    await b.attempt()
    await note()
    await b.order("deactivate")
    await note()
    await b.order("deactivate", for_s=5)
    await note()
    await b.order("activate")
    await note()

    assert seen == [
        "cooldown_expired",
        "probe_success",
        "probe_success",
        "manual",
        "cooldown_expired",
        "manual",
    ]
    assert (await b.model(SMALL)).status == "active"
