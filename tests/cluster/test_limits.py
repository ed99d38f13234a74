"""P1: what several nodes admit together never exceeds a limit, whoever is killed."""

from __future__ import annotations

import asyncio
import time

import pytest
from openai import AsyncOpenAI, RateLimitError

from tests.cluster.calls import Answer, ask, listen
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, pool

pytestmark = pytest.mark.cluster

LIMIT = 60
POOLS = [
    pool("minute", Member("alpha", limits={"rpm": LIMIT})),
    pool("narrow", Member("alpha", limits={"concurrency": 3})),
    pool("overflow", Member("alpha", limits={"rpm": 10}), "beta"),
    *(
        pool(f"told-{how}", Member("alpha", provider={"limits": {"rpm": 600}}))
        for how in ("whole", "stream", "refused")
    ),
]


async def test_a_limit_holds_for_all_nodes_together(cluster: Cluster, client: AsyncOpenAI):
    """Of 600 requests at once over three nodes exactly 60 are served; the others learn when it makes sense again."""

    async def timed() -> tuple[float, Answer | BaseException]:
        (result,) = await asyncio.gather(ask(client, "minute"), return_exceptions=True)
        return time.time(), result

    results = await asyncio.gather(*(timed() for _ in range(600)))
    seen = cluster.seen("minute.alpha")
    refused = [(at, error) for at, error in results if isinstance(error, RateLimitError)]
    first = min(entry["t_arrival"] for entry in seen)
    waits = [at + float(error.response.headers["retry-after-ms"]) / 1000 - first for at, error in refused]

    assert LIMIT - 1 <= len(seen) <= LIMIT
    assert len(results) == len(seen) + len(refused)
    assert min(waits) >= 60.0
    assert min(waits) < 75  # and what a busy caller took to read it
    assert {error.code for _, error in refused} == {"rate_limit_exceeded"}
    assert await cluster.books_of("minute") == {"admitted": len(seen), "settled": len(seen), "abandoned": 0}


async def test_parallel_calls_are_limited_over_all_nodes(cluster: Cluster, client: AsyncOpenAI):
    """No moment sees more calls in flight than the limit, and a place that is left is taken again."""
    cluster.order("narrow.alpha", "slow-head=150ms")
    results = await asyncio.gather(*(ask(client, "narrow") for _ in range(30)), return_exceptions=True)
    again = await ask(client, "narrow")
    seen = cluster.seen("narrow.alpha")
    most = max(sum(e["t_arrival"] <= at < e["t_end"] for e in seen) for at in [e["t_arrival"] for e in seen])

    assert most == 3
    assert {type(result) for result in results} == {Answer, RateLimitError}
    assert again.model == "narrow.alpha"


async def test_what_exceeds_a_limit_goes_to_the_next_model(cluster: Cluster, client: AsyncOpenAI):
    """A full window costs nobody an answer while another model is free."""
    answers = await asyncio.gather(*(ask(client, "overflow") for _ in range(50)))

    assert len(cluster.seen("overflow.alpha")) == 10
    assert sum(answer.model == "overflow.beta" for answer in answers) == 40
    assert await cluster.books_of("overflow") == {"admitted": 50, "settled": 50, "abandoned": 0}


@pytest.mark.parametrize(("how", "order"), [("whole", ""), ("stream", ""), ("refused", "429,retry-after=0,")])
async def test_what_the_provider_says_holds_for_all_nodes_at_once(
    cluster: Cluster, client: AsyncOpenAI, how: str, order: str
):
    """Configured are 600 a minute; after an answer that says 3 remain, at most 3 more are sent by the whole cluster."""
    name, model = f"told-{how}", f"told-{how}.alpha"
    cluster.order(model, f"{order}ratelimit-headers=3", times=1)
    await asyncio.gather((listen if how == "stream" else ask)(client, name), return_exceptions=True)
    await cluster.settled_books()
    before = len(cluster.seen(model))
    results = await asyncio.gather(*(ask(client, name) for _ in range(60)), return_exceptions=True)

    assert before == 1
    assert len(cluster.seen(model)) == before + 3
    assert sum(isinstance(result, Answer) for result in results) == 3
    assert {type(result) for result in results} == {Answer, RateLimitError}
