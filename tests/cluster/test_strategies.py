"""Selection strategies over three nodes: what reaches the providers is what the strategy promises for the whole cluster."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest
from openai import AsyncOpenAI, InternalServerError, RateLimitError

from tests.cluster.calls import Answer, ask, listen
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, pool
from tests.support.processes import wait_until

pytestmark = pytest.mark.cluster

#: Nodes read signals once a second; a moment longer and everybody has.
_READ_S = 1.3

PRICES = {"chatty": {"input": 5.0, "output": 1.0}, "bookish": {"input": 0.5, "output": 20.0}}
POOLS = [
    pool("even", "alpha", "beta", "quiet", strategy="round-robin"),
    pool("fast", "alpha", "beta", strategy="latency-first"),
    pool("busy", "alpha", "beta", "quiet", strategy="least-busy"),
    pool("pairs", "alpha", "beta", "quiet", strategy="power-of-two"),
    pool("talk", "alpha", "beta", "quiet", strategy="session-stickiness"),
    pool("vow", "alpha", "beta", strategy="session-stickiness", affinity_mode="strict"),
    pool(
        "cheap",
        *(Member("alpha", name, model={"pricing": price}) for name, price in PRICES.items()),
        strategy="cost-first",
    ),
    pool("ranked", "alpha", "beta", strategy="priority-selection", model_priority=["ranked.beta"]),
    pool("wary", Member("alpha", limits={"rpm": 20}), "beta", strategy="rate-limit-aware"),
    pool("told", "alpha", "beta", strategy="rate-limit-aware"),
    pool("paced", Member("alpha"), rate_limit={"min_delta": "100ms", "action": "queue", "threshold": 1.0}),
    pool(
        "full",
        Member("alpha", limits={"concurrency": 1}),
        rate_limit={"action": "queue", "queue_size": 2, "threshold": 1.0},
    ),
]


async def many(client: AsyncOpenAI, name: str, count: int, *, at_once: int = 24) -> Counter[str]:
    """Who served so many requests."""
    room = asyncio.Semaphore(at_once)

    async def one() -> str:
        async with room:
            return (await ask(client, name)).model.rpartition(".")[2]

    return Counter(await asyncio.gather(*(one() for _ in range(count))))


def session(name: str) -> dict[str, dict[str, str]]:
    return {"extra_headers": {"x-modelmesh-session": name}}


async def test_shares_hold_when_a_model_leaves_and_returns(cluster: Cluster, client: AsyncOpenAI):
    """Those that stay divide its part evenly; nobody gets a burst."""
    await cluster.ops("models/even.alpha/deactivate", order={})
    try:
        await cluster.await_model("even.alpha", status="standby")
        without = await many(client, "even", 150)
    finally:
        await cluster.ops("models/even.alpha/activate", order={})
    await cluster.await_model("even.alpha", status="active")
    after = await many(client, "even", 150)

    assert abs(without["beta"] - 75) <= 5
    assert without["alpha"] <= 3  # a node may have planned a request before it heard
    assert all(abs(after[model] - 50) <= 5 for model in ("alpha", "beta", "quiet"))


async def test_latency_first_moves_to_the_faster_model(cluster: Cluster, client: AsyncOpenAI):
    """Measured by all, used by all; when the fast one becomes slow the traffic moves."""
    cluster.order("fast.alpha", "slow-head=120ms")
    assert (await many(client, "fast", 40))["beta"] > 0
    await asyncio.sleep(_READ_S)
    first = await many(client, "fast", 60)
    cluster.order("fast.alpha", "ok")
    cluster.order("fast.beta", "slow-head=400ms")
    await many(client, "fast", 24)
    await asyncio.sleep(_READ_S)
    second = await many(client, "fast", 60)

    assert first["beta"] == 60
    assert second["alpha"] == 60


async def test_least_busy_and_power_of_two_avoid_what_is_stuck(cluster: Cluster, client: AsyncOpenAI):
    """A model that answers slowly fills up and is left alone by all nodes, without being on standby."""
    for name in ("busy", "pairs"):
        cluster.order(f"{name}.alpha", "slow-head=700ms")
    busy, pairs = await asyncio.gather(
        many(client, "busy", 150, at_once=12), many(client, "pairs", 150, at_once=12)
    )

    assert busy["alpha"] <= 20
    assert pairs["alpha"] <= 35
    assert min(busy["beta"], busy["quiet"]) > 40


async def test_a_session_stays_on_its_model_whichever_node_it_meets(cluster: Cluster, client: AsyncOpenAI):
    """Sessions are spread over the pool, each request of one goes to the same model; one whose model leaves moves, and stays moved."""
    names = [f"session {number}" for number in range(12)]

    async def told(name: str) -> str:
        return (await ask(client, "talk", **session(name))).model

    first = dict(zip(names, await asyncio.gather(*map(told, names)), strict=True))
    again = [dict(zip(names, await asyncio.gather(*map(told, names)), strict=True)) for _ in range(4)]
    left = first[names[0]]
    await cluster.ops(f"models/{left}/deactivate", order={})
    await cluster.await_model(left, status="standby")
    moved = [dict(zip(names, await asyncio.gather(*map(told, names)), strict=True)) for _ in range(3)]
    await cluster.ops(f"models/{left}/activate", order={})
    await cluster.await_model(left, status="active")
    back = dict(zip(names, await asyncio.gather(*map(told, names)), strict=True))

    assert len(set(first.values())) > 1
    assert again == [first] * 4
    assert {name for name in names if moved[-1][name] != first[name]} == {
        name for name in names if first[name] == left
    }
    assert left not in moved[-1].values()
    assert moved[-1] == back


async def test_a_strict_session_waits_for_its_model(cluster: Cluster, client: AsyncOpenAI):
    """It would rather have no answer than one of another model."""
    model = (await ask(client, "vow", **session("strict"))).model
    other = "vow.beta" if model == "vow.alpha" else "vow.alpha"
    await cluster.ops(f"models/{model}/deactivate", order={})
    await cluster.await_model(model, status="standby")
    with pytest.raises(InternalServerError) as refused:
        await ask(client, "vow", **session("strict"))
    new = [(await ask(client, "vow", **session(f"new {number}"))).model for number in range(4)]
    await cluster.ops(f"models/{model}/activate", order={})
    await cluster.await_model(model, status="active")

    assert (refused.value.status_code, refused.value.code) == (503, "session_model_unavailable")
    assert set(new) == {other}
    assert (await ask(client, "vow", **session("strict"))).model == model


async def test_cost_first_prices_the_request_at_hand(client: AsyncOpenAI):
    """A long prompt goes where input is cheap, a long answer where output is."""
    long = [{"role": "user", "content": "word " * 4000}]
    prompt = await ask(client, "cheap", messages=long, max_tokens=20)
    answer = await ask(client, "cheap", max_tokens=4000)
    stream = await listen(client, "cheap", max_tokens=4000)

    assert prompt.model == "cheap.bookish"
    assert (answer.model, stream.model) == ("cheap.chatty", "cheap.chatty")


async def test_priority_falls_back_and_returns(cluster: Cluster, client: AsyncOpenAI):
    """The listed model first, the others while it is away, and the listed one again as soon as it is back."""
    before = await many(client, "ranked", 9)
    await cluster.ops("models/ranked.beta/deactivate", order={})
    await cluster.await_model("ranked.beta", status="standby")
    away = await many(client, "ranked", 9)
    await cluster.ops("models/ranked.beta/activate", order={})
    await cluster.await_model("ranked.beta", status="active")

    async def is_back() -> bool:
        return await many(client, "ranked", 9) == {"beta": 9}

    assert before == {"beta": 9}
    assert away["alpha"] >= 8
    await wait_until(is_back)


async def test_rate_limit_aware_switches_before_the_limit(cluster: Cluster, client: AsyncOpenAI):
    """The preferred model is used up to its threshold; nobody is refused, nobody is put on standby."""
    for _ in range(4):
        await many(client, "wary", 10)
        await asyncio.sleep(0.4)
    await asyncio.sleep(_READ_S)
    last = await many(client, "wary", 10)

    assert last == {"beta": 10}
    assert 14 <= len(cluster.seen("wary.alpha")) <= 20
    assert (await cluster.model("wary.alpha"))["status"] == "active"


async def test_a_providers_word_is_enough_to_switch(cluster: Cluster):
    """Nothing is limited here; the provider says that hardly anything is left, for a second."""
    cluster.order("told.alpha", "ratelimit-headers=3")
    async with cluster.client(cluster.nodes[0]) as client:
        models = [(await ask(client, "told")).model for _ in range(3)]

        async def is_back() -> bool:
            return (await ask(client, "told")).model == "told.alpha"

        await wait_until(is_back, interval=0.2)

    assert models == ["told.alpha", "told.beta", "told.beta"]


async def test_a_queue_paces_what_would_be_refused(cluster: Cluster, client: AsyncOpenAI):
    """Eight requests at once to a model that takes one each 100 ms, over three nodes: all are answered, none too early."""
    began = time.monotonic()
    await many(client, "paced", 8)
    took_s = time.monotonic() - began
    times = sorted(entry["t_arrival"] for entry in cluster.seen("paced.alpha"))

    assert len(times) == 8
    assert took_s > 0.7
    assert min(later - earlier for earlier, later in zip(times, times[1:], strict=False)) > 0.08


async def test_a_full_queue_refuses_at_once(cluster: Cluster, client: AsyncOpenAI):
    """Each of three nodes holds two; the others learn when to come back."""
    cluster.order("full.alpha", "slow-head=60ms")
    results = await asyncio.gather(*(ask(client, "full") for _ in range(20)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, RateLimitError)]

    assert {type(result) for result in results} == {Answer, RateLimitError}
    assert 4 <= len(results) - len(refused) <= 10
    assert all(float(error.response.headers["retry-after"]) >= 1 for error in refused)
