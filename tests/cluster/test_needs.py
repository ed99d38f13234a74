"""Who is fit: what a request needs, the caller's caps, fallbacks after a refusal, and pools that choose by expression."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError

from tests.cluster.calls import HELLO, ask, listen
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, pool
from tests.support.processes import wait_until

pytestmark = pytest.mark.cluster

_TOOLS: Any = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]
_NO_TOOLS = {"features": {"tool_calling": False}}
_NARROW = {"constraints": {"context_window": 1000}}
_ROUND = {"strategy": "round-robin"}
_LONG: Any = [{"role": "user", "content": "lorem ipsum " * 1000}]
_WAYS = [ask, listen]


def _priced(usd: float) -> dict[str, Any]:
    return {"pricing": {"input": usd, "output": usd}}


def _dynamic(name: str, **rules: Any) -> dict[str, Any]:
    return {"providers": {}, "models": {}, "pools": {name: {"retry": {"scope": "any"}, **rules}}}


POOLS = [
    pool("handy", Member("alpha", model=_NO_TOOLS), "beta", **_ROUND),
    pool("clumsy", Member("alpha", model=_NO_TOOLS), Member("beta", model=_NO_TOOLS)),
    pool("cramped", Member("alpha", model=_NARROW), fallbacks={"context_window": ["wide"]}),
    pool("strict", Member("alpha", model=_NARROW)),
    pool("wide", "beta"),
    *(
        pool(f"falls-{kind}-{way.__name__}", "alpha", fallbacks={kind: ["wide.beta"]})
        for kind in ("context_window", "content_policy")
        for way in _WAYS
    ),
    pool(
        "frugal",
        Member("alpha", provider={"region": "us-east-1"}, model=_priced(1000.0)),
        Member("beta", provider={"region": "eu-west-1"}, model=_priced(1.0)),
        **_ROUND,
    ),
    pool("stall", Member("alpha", model=_priced(2.0)), Member("beta", model=_priced(1.0))),
    _dynamic("cheapest", where="'stall.' in id", score="1 / pricing.input"),
    pool("lane", "alpha", "beta"),
    _dynamic("quickest", where="'lane.' in id", score="headroom / latency_ms"),
]


@pytest.mark.parametrize("call", _WAYS)
async def test_tools_go_only_to_models_that_call_them(cluster: Cluster, client: AsyncOpenAI, call):
    """Of a pool that goes round, only one member gets requests with tools; the others go to both."""
    with_tools = {(await call(client, "handy", tools=_TOOLS)).model for _ in range(4)}
    without = {(await call(client, "handy")).model for _ in range(4)}

    assert with_tools == {"handy.beta"}
    assert without == {"handy.alpha", "handy.beta"}


async def test_a_feature_that_nobody_has_is_named(cluster: Cluster, client: AsyncOpenAI):
    """400 with the field that asks and the models that lack it; no provider hears of it."""
    with pytest.raises(BadRequestError, match=r"tool_calling.*clumsy\.alpha, clumsy\.beta") as caught:
        await ask(client, "clumsy", tools=_TOOLS)

    assert (caught.value.code, caught.value.param) == ("unsupported_feature", "tools")
    assert cluster.seen("clumsy.alpha") == cluster.seen("clumsy.beta") == []


async def test_a_text_that_fits_nowhere_is_refused_as_openai_does(cluster: Cluster, client: AsyncOpenAI):
    """By code and words that clients look for."""
    with pytest.raises(BadRequestError, match="maximum context length") as caught:
        await ask(client, "strict", messages=_LONG)

    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    assert cluster.seen("strict.alpha") == []
    assert (await ask(client, "strict")).model == "strict.alpha"


@pytest.mark.parametrize("call", _WAYS)
async def test_a_text_that_fits_nowhere_goes_to_the_fallback_at_once(
    cluster: Cluster, client: AsyncOpenAI, call
):
    """Without asking in vain."""
    answer = await call(client, "cramped", messages=_LONG)

    assert answer.model == "wide.beta"
    assert answer.headers["x-modelmesh-fallback"] == "context_window"
    assert answer.headers["x-modelmesh-attempts"] == "1"
    assert cluster.seen("cramped.alpha") == []


@pytest.mark.parametrize("call", _WAYS)
@pytest.mark.parametrize(
    ("kind", "order"), [("context_window", "context_length_exceeded"), ("content_policy", "content_filter")]
)
async def test_a_refusal_goes_on_where_its_pool_says(
    cluster: Cluster, client: AsyncOpenAI, call, kind, order
):
    """The fallback answers, and whoever refused keeps a clean record."""
    name = f"falls-{kind}-{call.__name__}"
    cluster.order(f"{name}.alpha", order)
    answer = await call(client, name)
    row = await cluster.model(f"{name}.alpha")

    assert answer.text.startswith("beta: hello")
    assert answer.model == "wide.beta"
    assert answer.headers["x-modelmesh-fallback"] == kind
    assert answer.headers["x-modelmesh-attempts"] == "2"
    assert (row["status"], row["fails"], row["failed"]) == ("active", 0, 0)


async def test_a_refusal_of_another_kind_is_the_answer(cluster: Cluster, client: AsyncOpenAI):
    """A pool that falls back for long texts does not for declined content."""
    cluster.order("cramped.alpha", "content_filter", times=1)
    with pytest.raises(BadRequestError) as caught:
        await ask(client, "cramped")

    assert caught.value.code == "content_filter"
    assert "x-modelmesh-fallback" not in caught.value.response.headers


@pytest.mark.parametrize(
    "caps",
    [
        {"x-modelmesh-max-price": "0.1"},
        {"x-modelmesh-allow-providers": "frugal-beta, nobody"},
        {"x-modelmesh-regions": "eu-west-1, EU-Central-1"},
    ],
)
async def test_caps_bound_who_may_serve(cluster: Cluster, client: AsyncOpenAI, caps):
    """Of a pool that goes round, only those within the cap serve."""
    served = {(await ask(client, "frugal", max_tokens=1000, extra_headers=caps)).model for _ in range(4)}

    assert served == {"frugal.beta"}


@pytest.mark.parametrize(
    ("header", "value", "code"),
    [
        ("x-modelmesh-max-price", "0.0000001", "no_model_within_caps"),
        ("x-modelmesh-regions", "mars", "no_model_within_caps"),
        ("x-modelmesh-allow-providers", "nobody", "no_model_within_caps"),
        ("x-modelmesh-max-price", "cheap", "invalid_request"),
        ("x-modelmesh-regions", "", "invalid_request"),
    ],
)
async def test_caps_that_leave_nobody_or_make_no_sense_are_refused(
    cluster: Cluster, client: AsyncOpenAI, header, value, code
):
    """400, with the header as the parameter."""
    with pytest.raises(BadRequestError) as caught:
        await client.chat.completions.create(model="frugal", messages=HELLO, extra_headers={header: value})

    assert (caught.value.code, caught.value.param) == (code, header)


async def test_a_dynamic_pool_asks_in_the_order_of_its_score(cluster: Cluster, client: AsyncOpenAI):
    """The cheapest member first; the next one when it fails."""
    assert {(await ask(client, "cheapest")).model for _ in range(3)} == {"stall.beta"}

    cluster.order("stall.beta", "500", times=1)
    answer = await ask(client, "cheapest")
    assert answer.model == "stall.alpha"
    assert answer.headers["x-modelmesh-pool"] == "cheapest"


async def test_a_dynamic_pool_follows_the_speed_of_its_models(cluster: Cluster, client: AsyncOpenAI):
    """Whoever was not measured is asked; then the quickest, on every node; what it went by is in the record, and leads to the same order."""
    cluster.order("lane.alpha", "slow-head=300ms")
    cluster.order("lane.beta", "slow-head=20ms")

    async def settled() -> bool:
        return {(await ask(client, "quickest")).model for _ in range(6)} == {"lane.beta"}

    await wait_until(settled)
    assert cluster.seen("lane.alpha")
    cluster.order("lane.beta", "500", times=1)
    answer = await ask(client, "quickest")
    again = await wait_until(lambda: _replay(cluster, answer.headers["x-request-id"]))
    (plan,) = again["decision"]["plans"]

    assert answer.model == "lane.alpha"
    assert again["same"]
    assert plan["rankings"][0]["order"] == ["lane.beta", "lane.alpha"]
    assert plan["signals"]["lane.alpha"]["latency_ms"] >= 250


async def _replay(cluster: Cluster, request: str) -> dict[str, Any] | None:
    """The replay, once the record has arrived."""
    try:
        return await cluster.ops(f"requests/{request}/replay")
    except httpx.HTTPStatusError:
        return None
