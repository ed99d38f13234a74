"""Caps that a pool sets to its models: exact, told by their reason, over with the provider's own calendar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shared_state.config import MeshConfig
from shared_state.ledger import NOT_SENT, Code, Outcome, Verdict
from shared_state.topology import DomainSpec, build_topology
from shared_state.usage import read_domain_use
from tests.redis.ground import BIG, DOMAIN, EPOCH_MS, PROVIDER, SMALL, Bench, SteeredStore, admitted

HOUR_MS = 3_600_000
#: 09:00 UTC is 01:00 in Los Angeles, where the day ends 23 hours later.
DAY_ENDS_MS = EPOCH_MS + 23 * HOUR_MS
OpenCapped = Callable[..., Bench]


def capped(pool: dict[str, Any], limits: dict[str, Any]) -> DomainSpec:
    """A domain whose small model is in a pool with these rules, on a provider of the American west."""
    document = {
        "providers": {
            PROVIDER: {
                "connector": "openai-compatible.v1",
                "base_url": "http://127.0.0.1:9/v1",
                "limits": {"timezone": "America/Los_Angeles"},
            }
        },
        "models": {
            model: {"provider": PROVIDER, "capabilities": ["chat-completion"], "pricing": {"input": 0}}
            for model in (SMALL, BIG)
        },
        "pools": {"chat": {"models": [SMALL], "recovery": pool, "deactivation": limits}},
    }
    return build_topology(MeshConfig.model_validate(document)).domains[DOMAIN]


@pytest.fixture
def open_capped(steered: SteeredStore) -> OpenCapped:
    """A bench under caps of a day: ``open_capped(request_limit=3)``; further keys are those of ``recovery``."""

    def build(*, recovery: dict[str, Any] | None = None, **limits: Any) -> Bench:
        limits.setdefault("quota_window", "daily")
        return Bench(steered, capped(recovery or {}, limits))

    return build


async def test_a_cap_on_requests_takes_the_model_out_until_the_day_ends(open_capped: OpenCapped) -> None:
    """Three requests, then standby with the reason and the time; the neighbour goes on; the next day is a new one."""
    b = open_capped(request_limit=3)
    for _ in range(3):
        assert await b.attempt() == Verdict(Code.ADMITTED)
    state = await b.model()

    assert (state.status, state.reason, state.mode) == ("standby", "request_limit", "time")
    assert (state.until_ms, state.trigger) == (DAY_ENDS_MS, "quota_reset")
    assert await b.attempt() == Verdict(Code.STANDBY, DAY_ENDS_MS, "request_limit")
    assert await b.attempt(model=BIG) == Verdict(Code.ADMITTED)
    await b.store.set_time(DAY_ENDS_MS)
    assert await b.recover() == [(f"m:{SMALL}", "active")]
    assert admitted([await b.attempt() for _ in range(4)]) == 3


async def test_no_more_than_the_cap_is_ever_admitted(open_capped: OpenCapped) -> None:
    """Asked for all at once, before anything is settled."""
    b = open_capped(request_limit=5)
    verdicts = await b.admit_many(20)

    assert admitted(verdicts) == 5
    assert verdicts[-1] == Verdict(Code.AT_LIMIT, DAY_ENDS_MS, "request_limit")
    assert (await b.model()).status == "active"


async def test_what_is_only_reserved_may_come_back_and_reaches_no_cap(open_capped: OpenCapped) -> None:
    """Two of three places are in flight; one of them is given back."""
    b = open_capped(request_limit=3)
    (first, _), (second, _) = await b.admit(), await b.admit()
    await b.attempt()
    assert (await b.model()).status == "active"

    await b.end(first, Outcome.NEUTRAL, flags=NOT_SENT)
    await b.end(second)
    assert (await b.model()).status == "active"
    await b.attempt()
    assert (await b.model()).reason == "request_limit"


async def test_tokens_reach_their_cap_when_another_call_like_the_last_would_not_fit(
    open_capped: OpenCapped,
) -> None:
    """A thousand tokens and calls of 300: after three of them a hundred are left, which is not enough."""
    b = open_capped(token_limit=1000)
    for count in (1, 2, 3):
        assert (await b.model()).status == "active", count
        reservation, _ = await b.admit(tokens=(200, 200))
        await b.end(reservation, tokens_in=200, tokens_out=100)
    state = await b.model()

    assert (state.reason, state.until_ms) == ("token_limit", DAY_ENDS_MS)


async def test_money_reaches_its_cap(open_capped: OpenCapped) -> None:
    """Two thirds of a dollar, twice."""
    b = open_capped(budget_limit=1.5)
    for _ in range(2):
        reservation, _ = await b.admit()
        await b.end(reservation, cost_nano=666_000_000)

    assert (await b.model()).reason == "budget_exceeded"


async def test_of_several_caps_the_weightiest_is_told(open_capped: OpenCapped) -> None:
    """Budget, then tokens, then requests."""
    b = open_capped(request_limit=1, token_limit=10, budget_limit=1)
    reservation, _ = await b.admit(tokens=(5, 5))
    await b.end(reservation, tokens_in=5, tokens_out=5, cost_nano=10**9)

    assert (await b.model()).reason == "budget_exceeded"


async def test_a_cap_that_does_not_return_waits_for_an_operator(open_capped: OpenCapped) -> None:
    """With ``on_quota_reset: false`` no day and no scheduler brings the model back."""
    b = open_capped(request_limit=1, recovery={"on_quota_reset": False})
    await b.attempt()
    await b.store.set_time(DAY_ENDS_MS + 1)
    state = await b.model()

    assert (state.reason, state.mode, state.until_ms, state.trigger) == (
        "request_limit",
        "manual",
        0,
        "manual",
    )
    assert await b.recover() == []
    assert (await b.attempt()).code == Code.STANDBY
    await b.order("activate")
    assert await b.attempt() == Verdict(Code.ADMITTED)


async def test_a_day_of_utc_ends_at_midnight_there(open_capped: OpenCapped) -> None:
    """``daily_utc`` does not ask for the provider's calendar."""
    b = open_capped(request_limit=1, quota_window=None, recovery={"quota_reset_schedule": "daily_utc"})
    await b.attempt()

    assert (await b.model()).until_ms == EPOCH_MS + 15 * HOUR_MS


async def test_a_cap_does_not_pardon_a_trial_that_is_owed(open_capped: OpenCapped) -> None:
    """A model that fails with its last request is not trusted just because a day has passed."""
    b = open_capped(budget_limit=1, retry_limit=1)
    b.pool = b.pool.model_copy(
        update={"deactivation": b.pool.deactivation.model_copy(update={"retry_limit": 1})}
    )
    reservation, _ = await b.admit()
    await b.end(reservation, Outcome.FAILURE, cost_nano=10**9)
    state = await b.model()

    assert (state.reason, state.mode, state.until_ms) == ("budget_exceeded", "trial", DAY_ENDS_MS)


async def test_a_cap_is_a_quota_like_any_other_to_those_who_look(open_capped: OpenCapped) -> None:
    """What is used, what is left, and when it begins anew."""
    b = open_capped(request_limit=5, budget_limit=2.0)
    await b.attempt()
    use = await read_domain_use(b.store, b.domain, now_ms=EPOCH_MS)
    seen = {w.name: (w.period, w.used, w.remaining, w.resets_ms) for w in use.models[SMALL]}

    assert seen["request_limit"] == ("d", 1, 4.0, DAY_ENDS_MS)
    assert seen["budget_exceeded"][0] == "d"
    assert use.models[BIG] == ()
