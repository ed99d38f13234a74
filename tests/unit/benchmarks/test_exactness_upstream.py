"""The counting upstream and the load that orders it about, without anything in between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise

import aiohttp
import pytest

from benchmarks.exactness_load import Load, plan
from benchmarks.exactness_upstream import ORDERS, CountingUpstream
from tests.support.processes import wait_until

_SEED = 7


@pytest.fixture(scope="module")
def upstream() -> Iterator[CountingUpstream]:
    """One process for all tests; each asks for a model of its own."""
    with CountingUpstream(seed=_SEED) as upstream:
        yield upstream


async def _ask(
    upstream: CountingUpstream, model: str, order: str = "", *, is_stream: bool = False, within_s: float = 5
):
    """Status and text of an answer."""
    prompt = f"[[do:{order}]] " * bool(order) + "word " * 20
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 50}
    timeout = aiohttp.ClientTimeout(total=within_s)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(f"{upstream.base_url}/chat/completions", json=body | {"stream": is_stream}) as response,
    ):
        return response.status, await response.text()


async def _booked(upstream: CountingUpstream, model: str):
    return [one for one in (await upstream.ledger())[0] if one.model == model]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_answer_tells_what_was_booked(upstream: CountingUpstream, is_stream: bool):
    """Tokens of the answer's usage are those of the ledger; the call ended before its answer was read."""
    model = f"plain-{is_stream}"
    status, text = await _ask(upstream, model, is_stream=is_stream)
    (call,) = await _booked(upstream, model)

    assert status == call.status == 200
    assert f'"prompt_tokens":{call.tokens_in},"completion_tokens":{call.tokens_out},' in text
    assert (call.tokens_in, 1 <= call.tokens_out <= 50) == (25, True)
    assert call.end_s is not None and 0 < call.end_s - call.at_s < 10
    assert text.endswith("data: [DONE]\n\n") is is_stream


@pytest.mark.parametrize("status", [429, 500])
async def test_a_refusal_uses_no_tokens(upstream: CountingUpstream, status: int):
    """It is a call all the same."""
    answered, _ = await _ask(upstream, f"refused-{status}", str(status))
    (call,) = await _booked(upstream, f"refused-{status}")

    assert (answered, call.status, call.tokens_in, call.tokens_out) == (status, status, 0, 0)


@pytest.mark.parametrize("order", ["reset", "cut"])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_broken_answer_is_booked_in_full(upstream: CountingUpstream, order: str, is_stream: bool):
    """Nobody knows how far the provider had come."""
    model = f"{order}-{is_stream}"
    with pytest.raises((aiohttp.ClientError, OSError)):
        await _ask(upstream, model, order, is_stream=is_stream)
    (call,) = await _booked(upstream, model)

    assert (call.status, call.tokens_in > 0, call.tokens_out > 0) == (0, True, True)
    assert call.end_s is not None


async def test_a_caller_who_leaves_ends_the_call(upstream: CountingUpstream):
    """At once, not when the answer would have come."""
    with pytest.raises(TimeoutError):
        await _ask(upstream, "left", "stall", within_s=0.1)

    async def ended():
        (call,) = await _booked(upstream, "left")
        return call.end_s and call

    call = await wait_until(ended)
    assert call.end_s - call.at_s < 10


async def test_calls_on_one_connection_follow_one_another(upstream: CountingUpstream):
    """A client that keeps its connection never overlaps with itself."""
    load = Load(upstream.base_url, ["one"], seed=_SEED, requests=12, workers=1)
    await load.run()
    calls = await _booked(upstream, "one")

    assert sum(load.answers.values()) == 12
    assert all(a.end_s is not None and a.end_s <= b.at_s for a, b in pairwise(calls))


async def test_a_load_takes_the_time_that_it_is_given(upstream: CountingUpstream):
    """Its requests come at a steady pace."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await Load(upstream.base_url, ["paced"], seed=3, requests=50, seconds=0.5).run()

    assert loop.time() - began > 0.45
    assert len(await _booked(upstream, "paced")) >= 40


def test_a_load_is_decided_by_its_seed_alone():
    """And holds everything: sizes over three orders of magnitude, streams, those who leave, every order."""
    requests = [plan(["a", "b"], _SEED, number) for number in range(3000)]
    sizes = [len(one.prompt) for one in requests]

    assert requests == [plan(["a", "b"], _SEED, number) for number in range(3000)]
    assert requests != [plan(["a", "b"], _SEED + 1, number) for number in range(3000)]
    assert max(sizes) > 1000 * min(sizes)
    assert {one.is_stream for one in requests} == {one.is_abort for one in requests} == {True, False}
    assert {order for order in ORDERS if any(f"[[do:{order}]]" in one.prompt for one in requests)} == set(
        ORDERS
    )


def test_a_port_that_is_taken_is_an_error_and_no_hang():
    """The operator has told the endpoint that very port."""
    with CountingUpstream() as first, pytest.raises(OSError, match="cannot listen"):
        CountingUpstream(port=int(first.base_url.rsplit(":", 1)[1].removesuffix("/v1"))).__enter__()
