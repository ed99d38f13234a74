"""Rules of rotation and retry that no other module shows at work: each is asked of all three nodes, and holds for the cluster."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from openai import APIStatusError, AsyncOpenAI

from tests.cluster.calls import Answer, ask
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, Section, pool
from tests.support.processes import wait_until

pytestmark = pytest.mark.cluster

_PRICES = {"alpha": 0.004, "beta": 0.00001}
_FIXED = {"max_attempts": 3, "backoff": "fixed", "initial_delay": "100ms", "scope": "same_model"}
_KIN = (Member("alpha", "first"), "beta", Member("alpha", "second"))
POOLS = [
    pool("sticky", "alpha", "beta"),
    pool(
        "rated",
        *("alpha", "beta"),
        strategy="round-robin",
        deactivation={"retry_limit": 1000, "error_rate_threshold": 0.5, "error_min_requests": 12},
    ),
    pool(
        "priced",
        *(Member(mock, model={"pricing": {"per_request": price}}) for mock, price in _PRICES.items()),
        deactivation={"budget_limit": 0.01, "quota_window": "daily"},
    ),
    pool("wordy", "alpha", "beta", deactivation={"token_limit": 500, "quota_window": "daily"}),
    pool(
        "ejected",
        *("alpha", "beta", "quiet"),
        strategy="round-robin",
        deactivation={"retry_limit": 1, "max_ejected": 0.34},
        recovery={"cooldown": "60s"},
    ),
    pool("timed", "alpha"),
    pool("again", "alpha", "beta", retry=_FIXED),
    pool("later", "alpha", "beta", retry={**_FIXED, "backoff": "exponential_jitter"}),
    pool("bidden", "alpha", "beta", retry={**_FIXED, "backoff": "retry_after"}),
    pool("kin", *_KIN, retry={"scope": "same_provider"}),
    pool("billed", *_KIN, retry={"scope": "any"}),
    pool("late", "alpha", "beta", retry={"deadline": "400ms"}),
]


async def on_each_node(cluster: Cluster, name: str, *, times: int = 1, **options: Any) -> list[Answer]:
    """The answers of one node after the other."""
    answers = []
    for node in cluster.nodes:
        async with cluster.client(node) as direct:
            answers += [await ask(direct, name, **options) for _ in range(times)]
    return answers


def models(answers: list[Answer]) -> Counter[str]:
    return Counter(answer.model.rpartition(".")[2] for answer in answers)


# -- strategies and reasons


async def test_a_model_that_recovers_takes_no_traffic_back(cluster: Cluster, client: AsyncOpenAI):
    """Every node keeps to the model that the pool has moved to, however long the first is well again."""
    before = await on_each_node(cluster, "sticky")
    await cluster.ops("models/sticky.alpha/deactivate", order={})
    await cluster.await_model("sticky.alpha", status="standby")
    await ask(client, "sticky")
    away = await on_each_node(cluster, "sticky")
    await cluster.ops("models/sticky.alpha/activate", order={})
    await cluster.await_model("sticky.alpha", status="active")
    back = await on_each_node(cluster, "sticky", times=3)

    assert models(before) == {"alpha": 3}
    assert models(away) == {"beta": 3}
    assert models(back) == {"beta": 9}


async def test_an_error_rate_is_judged_over_all_nodes(cluster: Cluster, client: AsyncOpenAI):
    """No node sees the least volume by itself; together they do, and with it half of a model's requests have failed."""
    model = "rated.alpha"
    cluster.order(model, "500")
    answers = [await ask(client, "rated") for _ in range(40)]
    row = await cluster.await_model(model, status="standby")

    assert row["reason"] == "error_threshold"
    assert 12 <= len(cluster.seen(model)) <= 14  # a node may have planned one before it heard
    assert models(answers) == {"beta": 40}


@pytest.mark.parametrize(
    ("name", "options", "most", "reason"),
    [("priced", {}, 2, "budget_exceeded"), ("wordy", {"max_tokens": 300}, 1, "token_limit")],
)
async def test_a_cap_on_money_or_tokens_takes_the_model_out(
    cluster: Cluster, client: AsyncOpenAI, name: str, options: Section, most: int, reason: str
):
    """Whichever node spent it; the other model serves meanwhile."""
    cluster.order(f"{name}.alpha", "tokens=300")
    answers = list[Answer]()
    while models(answers)["beta"] == 0:
        for node in cluster.nodes:
            async with cluster.client(node) as direct:
                answers.append(await ask(direct, name, **options))
            await cluster.settled_books()  # else what is reserved leaves no room for the next
    row = await cluster.await_model(f"{name}.alpha", status="standby")

    assert (row["reason"], row["trigger"]) == (reason, "quota_reset")
    assert len(cluster.seen(f"{name}.alpha")) == models(answers)["alpha"] == most


async def test_no_more_than_a_share_of_a_pool_is_ejected(cluster: Cluster, client: AsyncOpenAI):
    """Two of three fail; one of them may stay away, the other goes on being asked beside the third."""
    ill = ("ejected.alpha", "ejected.beta")
    for model in ill:
        cluster.order(model, "500")
    await asyncio.gather(*(ask(client, "ejected") for _ in range(6)))
    for model in ill:
        await cluster.await_model(model, status="standby")
        cluster.order(model, "ok")
    answers = await on_each_node(cluster, "ejected", times=5)
    served = models(answers)

    assert served["quiet"] > 0
    assert sorted(served[name] > 0 for name in ("alpha", "beta")) == [False, True]


# -- ways back


async def test_an_order_for_a_time_ends_by_itself_on_every_node(cluster: Cluster, client: AsyncOpenAI):
    """No scheduler and no operator is waited for."""
    began = time.monotonic()
    await cluster.ops("models/timed.alpha/deactivate", order={"for_s": 1})
    with pytest.raises(APIStatusError) as refused:
        await ask(client, "timed")

    async def is_back() -> bool:
        try:
            return models(await on_each_node(cluster, "timed")) == {"alpha": 3}
        except APIStatusError:
            return False

    await wait_until(is_back)

    assert refused.value.status_code == 503
    assert 0.9 < time.monotonic() - began < 6
    assert len(cluster.seen("timed.alpha")) >= 3


# -- retries


@pytest.mark.parametrize(
    ("name", "order", "least_s", "most_s"),
    [
        ("again", "500", 0.1, 0.1),
        ("later", "500", 0.05, 0.2),  # 100 ms, then 200 ms, each by half or whole
        ("bidden", "503,retry-after-ms=250", 0.25, 0.25),
    ],
)
async def test_the_same_model_is_tried_again_after_its_pause(
    cluster: Cluster, name: str, order: str, least_s: float, most_s: float
):
    """Twice it fails, the third attempt is the answer; nobody else is asked."""
    model, attempts = f"{name}.alpha", list[list[float]]()
    for node in cluster.nodes:
        before = len(cluster.seen(model))
        cluster.order(model, order, times=2)
        async with cluster.client(node) as direct:
            answer = await ask(direct, name)
        attempts.append([entry["t_arrival"] for entry in cluster.seen(model)[before:]])
        assert (answer.model, answer.headers["x-modelmesh-attempts"]) == (model, "3")
    pauses = [later - earlier for times in attempts for earlier, later in pairwise(times)]

    assert len(pauses) == 6
    assert least_s <= min(pauses)
    assert max(pauses) < most_s + 1  # what a busy machine adds
    assert cluster.seen(f"{name}.beta") == []


@pytest.mark.parametrize(
    ("name", "order", "wanted"),
    [
        ("kin", "500", "second"),  # the same provider first, though another is next in order
        ("billed", "garbage", "beta"),  # another account, for the answer may have been billed
    ],
)
async def test_where_the_next_attempt_goes(cluster: Cluster, name: str, order: str, wanted: str):
    """By the scope, and by what may have been billed."""
    served = []
    for node in cluster.nodes:
        cluster.order(f"{name}.first", order, times=1)
        async with cluster.client(node) as direct:
            served.append(await ask(direct, name))
        await cluster.ops(f"models/{name}.first/activate", order={})
    others = {"second", "beta"} - {wanted}

    assert models(served) == {wanted: 3}
    assert {answer.headers["x-modelmesh-attempts"] for answer in served} == {"2"}
    assert [cluster.seen(f"{name}.{other}") for other in others] == [[]]


async def test_all_attempts_share_one_deadline(cluster: Cluster):
    """The first model hangs; the time is over for the second as well."""
    for mock in ("alpha", "beta"):
        cluster.order(f"late.{mock}", "slow-head=5s")
    for node in cluster.nodes:
        began = time.monotonic()
        async with cluster.client(node) as direct:
            with pytest.raises(APIStatusError) as caught:
                await ask(direct, "late")
        assert caught.value.status_code == 504
        assert 0.35 < time.monotonic() - began < 3
