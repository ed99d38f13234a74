"""P7: who is held responsible: the caller, the model, or the account."""

from __future__ import annotations

import asyncio
import time

import pytest
from openai import APIStatusError, AsyncOpenAI, BadRequestError, RateLimitError

from tests.cluster.calls import HELLO, ask, listen
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, pool
from tests.support.processes import wait_until

pytestmark = pytest.mark.cluster

_ACCOUNT_FAULTS = {"401": "auth", "insufficient_quota": "quota_exhausted"}
_SOON_S = 10.0

POOLS = [
    pool("picky", "alpha", "beta"),
    pool("leaver", "alpha", "beta"),
    pool("told-to-wait", "alpha", "beta"),
    pool("alone", "alpha"),
    *(
        pool(f"account-{reason}", "alpha", Member("alpha", "second"), "beta", retry={})
        for reason in _ACCOUNT_FAULTS.values()
    ),
]


@pytest.mark.parametrize("call", [ask, listen])
@pytest.mark.parametrize("order", ["400", "context_length_exceeded", "422"])
async def test_a_callers_mistake_is_the_callers(cluster: Cluster, client: AsyncOpenAI, call, order):
    """The provider's complaint is passed on as it is, nobody else is asked, and the model's record stays clean."""
    cluster.order("picky.alpha", order)
    statuses = []
    for _ in range(4):
        with pytest.raises(APIStatusError, match="mock provider was ordered to answer") as caught:
            await call(client, "picky")
        statuses.append(caught.value.status_code)
    row = await cluster.model("picky.alpha")

    assert set(statuses) <= {400, 422}
    assert (row["status"], row["fails"], row["failed"]) == ("active", 0, 0)
    assert cluster.seen("picky.beta") == []


async def test_the_providers_own_words_reach_the_caller(cluster: Cluster, client: AsyncOpenAI):
    """Type, code and parameter of a refusal are the provider's."""
    cluster.order("picky.alpha", "context_length_exceeded")
    with pytest.raises(BadRequestError) as caught:
        await ask(client, "picky")

    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    assert caught.value.response.headers["x-modelmesh-attempts"] == "1"


@pytest.mark.parametrize("streams", [False, True])
async def test_a_caller_who_leaves_before_the_first_byte_blames_nobody(
    cluster: Cluster, client: AsyncOpenAI, streams
):
    """The provider's connection is closed at once, nothing is tried again, and the books close."""
    cluster.order("leaver.alpha", "slow-head=20s")
    before = len(cluster.seen("leaver.alpha"))
    call = asyncio.create_task((listen if streams else ask)(client, "leaver"))
    await wait_until(lambda: len(cluster.seen("leaver.alpha")) > before)
    call.cancel()
    await asyncio.wait([call])
    await wait_until(lambda: cluster.seen("leaver.alpha")[-1]["client_gone"], _SOON_S)
    await cluster.settled_books()

    assert len(cluster.seen("leaver.alpha")) == before + 1
    await _assert_clean(cluster)


async def test_a_caller_who_leaves_a_stream_blames_nobody(cluster: Cluster, client: AsyncOpenAI):
    """A stream that nobody reads any more is not read from the provider either."""
    cluster.order("leaver.alpha", "slow-token=50ms,tokens=400")
    stream = await client.chat.completions.create(model="leaver", messages=HELLO, stream=True)
    async with stream:
        async for chunk in stream:
            if chunk.choices[0].delta.content == "hello":
                break
    await wait_until(lambda: cluster.seen("leaver.alpha")[-1]["client_gone"], _SOON_S)
    await cluster.settled_books()

    assert cluster.seen("leaver.alpha")[-1]["chunks"] < 200
    await _assert_clean(cluster)


async def _assert_clean(cluster: Cluster) -> None:
    row = await cluster.model("leaver.alpha")

    assert (row["status"], row["fails"], row["failed"]) == ("active", 0, 0)
    assert cluster.seen("leaver.beta") == []


async def test_a_provider_that_asks_to_wait_is_left_alone_for_so_long(cluster: Cluster, client: AsyncOpenAI):
    """One 429 with retry-after=2 keeps the whole cluster away for two seconds, and no longer."""
    model = "told-to-wait.alpha"
    cluster.order(model, "429,retry-after=2", times=1)
    assert (await ask(client, "told-to-wait")).model == "told-to-wait.beta"
    asked = cluster.seen(model)[0]["t_arrival"]

    async def returned() -> bool:
        await asyncio.gather(*(ask(client, "told-to-wait") for _ in range(3)))
        # the pointer has moved to the other model, so the first one is asked for by its name
        return not isinstance(
            *await asyncio.gather(ask(client, model), return_exceptions=True), RateLimitError
        )

    await wait_until(returned, interval=0.02)
    first, second, *_ = [entry["t_arrival"] for entry in cluster.seen(model)]

    assert first == asked
    assert 2.0 <= second - first < 4


async def test_a_rate_limit_without_another_model_is_passed_on_with_its_time(
    cluster: Cluster, client: AsyncOpenAI
):
    """A caller for whom there is no other model learns when to come back, then and while the model rests."""
    cluster.order("alone.alpha", "429,retry-after=7", times=1)
    waits = []
    for _ in range(2):
        with pytest.raises(RateLimitError) as caught:
            await ask(client, "alone")
        waits.append(float(caught.value.response.headers["retry-after"]))

    assert waits[0] == 7
    assert 6 <= waits[1] <= 7
    assert len(cluster.seen("alone.alpha")) == 1


@pytest.mark.parametrize(("order", "reason"), _ACCOUNT_FAULTS.items())
async def test_a_refused_account_is_out_with_all_its_models(
    cluster: Cluster, client: AsyncOpenAI, order, reason
):
    """Bad credentials and spent credit concern the account: no model of it is asked again, nothing is retried."""
    name = f"account-{reason}"
    cluster.order(f"{name}.alpha", order)
    first = await ask(client, name)
    started = time.monotonic()
    later = await asyncio.gather(*(ask(client, name) for _ in range(20)))
    account = await cluster.provider(f"{name}-alpha")

    assert {answer.model for answer in (first, *later)} == {f"{name}.beta"}
    assert len(cluster.seen(f"{name}.alpha")) == 1
    assert cluster.seen(f"{name}.second") == []
    assert (account["status"], account["reason"]) == ("standby", reason)
    assert (await cluster.model(f"{name}.alpha"))["fails"] == 0
    assert time.monotonic() - started < 30
