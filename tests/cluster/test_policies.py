"""Reasons to leave the traffic and ways to come back, over three nodes and two schedulers: each is judged once for all."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from openai import APIStatusError, AsyncOpenAI, InternalServerError, RateLimitError

from tests.cluster.calls import ask
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, pool
from tests.support.processes import wait_until

pytestmark = pytest.mark.cluster

_ONE_FAILURE = {"retry_limit": 1}
POOLS = [
    pool("capped", "alpha", "beta", deactivation={"request_limit": 3, "quota_window": "daily"}),
    pool(
        "broke",
        Member(
            "alpha", provider={"budget": {"daily_limit": 0.035}}, model={"pricing": {"per_request": 0.01}}
        ),
        "beta",
    ),
    pool(
        "nightly",
        "alpha",
        deactivation={"maintenance_window": {"cron": "* * * * *", "duration": "1h"}},
    ),
    pool("panicky", "alpha", "beta", deactivation=_ONE_FAILURE, recovery={"cooldown": "60s"}),
    pool(
        "probed",
        "alpha",
        deactivation=_ONE_FAILURE,
        recovery={"cooldown": "300ms", "probe_interval": "200ms", "ramp": [1.0]},
    ),
    pool("asked", "alpha"),
    pool("locked", "alpha", provider_recovery="on_manual"),
]


async def test_a_cap_is_exact_over_all_nodes_and_takes_the_model_out(
    cluster: Cluster, client: AsyncOpenAI
) -> None:
    """Ten requests at once for two models with three each: six are served, four are told when to come back."""
    results = await asyncio.gather(*(ask(client, "capped") for _ in range(10)), return_exceptions=True)
    refused = [error for error in results if isinstance(error, RateLimitError)]
    rows = [await cluster.await_model(f"capped.{name}", status="standby") for name in ("alpha", "beta")]

    assert len(refused) == 4
    assert all(int(error.response.headers["retry-after"]) > 1 for error in refused)
    assert [len(cluster.seen(f"capped.{name}")) for name in ("alpha", "beta")] == [3, 3]
    assert {(row["reason"], row["trigger"]) for row in rows} == {("request_limit", "quota_reset")}
    for node in cluster.nodes:
        async with cluster.client(node) as direct:
            with pytest.raises(RateLimitError):
                await ask(direct, "capped")


async def test_spent_money_takes_the_account_out_on_every_node(cluster: Cluster, client: AsyncOpenAI) -> None:
    """Ten requests at once, money for three of them: the others go to the next account, and so does whatever comes to any node."""
    answers = await asyncio.gather(*(ask(client, "broke") for _ in range(10)))
    row = await cluster.await_provider("broke-alpha", status="standby")
    later = [await _ask_at(cluster, number, "broke") for number in range(3)]
    events = (await cluster.ops("status"))["events"]
    told = [
        event for event in events if event["provider"] == "broke-alpha" and "deactivated" in event["type"]
    ]

    assert sum(answer.model == "broke.alpha" for answer in answers) == len(cluster.seen("broke.alpha")) == 3
    assert (row["reason"], row["trigger"]) == ("budget_exceeded", "quota_reset")
    assert {answer.model for answer in later} == {"broke.beta"}
    assert len(told) == 1


async def test_a_maintenance_window_rests_a_model_until_an_operator_says_otherwise(
    cluster: Cluster, client: AsyncOpenAI
) -> None:
    """Announced by the scheduler, obeyed by every node; an order to activate is not undone."""
    row = await cluster.await_model("nightly.alpha", status="standby")
    with pytest.raises(InternalServerError) as refused:
        await ask(client, "nightly")
    await cluster.ops("models/nightly.alpha/activate", order={})
    answers = [await _ask_at(cluster, number, "nightly") for number in range(3)]
    looks = await _runs(cluster, "maintenance")
    await wait_until(lambda: _has_run(cluster, "maintenance", looks + 2), what="two more looks")

    assert row["reason"] == "maintenance_window"
    assert refused.value.status_code == 503
    assert int(refused.value.response.headers["retry-after"]) > 60
    assert {answer.model for answer in answers} == {"nightly.alpha"}
    assert (await cluster.model("nightly.alpha"))["status"] == "active"
    assert len(cluster.seen("nightly.alpha")) == 3


async def test_when_all_are_ill_the_least_ill_serve(cluster: Cluster, client: AsyncOpenAI) -> None:
    """Both have failed once and are away for a minute; well again, they answer at once, and the answer says how it came.

    That it began and that it is over is told once, with the numbers of all nodes.
    """
    models = ("panicky.alpha", "panicky.beta")
    for model in models:
        cluster.order(model, "500")
    with pytest.raises(APIStatusError):
        await ask(client, "panicky")
    for model in models:
        await cluster.await_model(model, status="standby")
        cluster.order(model, "ok")
    answers = [await _ask_at(cluster, number, "panicky") for number in range(3)]

    assert {answer.headers.get("x-modelmesh-panic") for answer in answers} == {"true"}
    assert {(await cluster.model(model))["status"] for model in models} == {"standby"}
    await _await_panic(cluster, asked=3)
    for model in models:
        await cluster.ops(f"models/{model}/activate", order={})
    await _await_panic(cluster, asked=None)
    events = [event for event in (await cluster.ops("status"))["events"] if event["pool"] == "panicky"]

    assert [event["type"] for event in events] == ["pool_panic_over", "pool_panic"]
    assert [(event["numbers"]["well"], event["numbers"]["members"]) for event in events] == [(2, 2), (0, 2)]
    assert {name: events[0]["numbers"][name] for name in ("asked", "answered")} == {"asked": 3, "answered": 3}


async def test_a_model_that_nobody_asks_for_is_probed_and_comes_back(
    cluster: Cluster, client: AsyncOpenAI
) -> None:
    """One prober in the cluster; failed probes double the wait; every one of them is in the books."""
    model = "probed.alpha"
    cluster.order(model, "500")
    with pytest.raises(APIStatusError):
        await ask(client, "probed")
    await wait_until(lambda: len(cluster.seen(model)) >= 3, interval=0.05, what="two probes")
    cluster.order(model, "ok")
    await cluster.await_model(model, status="active")
    seen = cluster.seen(model)
    first, second = (seen[i + 1]["t_arrival"] - seen[i]["t_arrival"] for i in (0, 1))

    assert [entry["status"] for entry in seen] == [500] * (len(seen) - 1) + [200]
    assert first >= 0.5
    assert second >= 0.8  # 600 ms of cooldown, 200 ms of waiting for requests
    assert (await cluster.books_of("probed"))["admitted"] == len(seen)
    assert (await ask(client, "probed")).model == model


async def test_an_operator_may_probe_at_any_time(cluster: Cluster, client: AsyncOpenAI) -> None:
    """A tiny request; well, not well, or not asked because an order holds."""
    model = "asked.alpha"
    well = await _probe(cluster, model)
    sent = cluster.mocks["alpha"].last()
    cluster.order(model, "500", times=1)
    failed = await _probe(cluster, model)
    await cluster.ops(f"models/{model}/deactivate", order={})
    resting = await _probe(cluster, model)

    assert sent is not None
    assert json.loads(sent["body"])["max_tokens"] == 1
    assert well["latency_ms"] > 0
    assert [shown["verdict"] for shown in (well, failed, resting)] == ["well", "failed", "not_asked"]
    assert len(cluster.seen(model)) == 2


async def test_an_account_that_waits_for_an_operator_waits(cluster: Cluster, client: AsyncOpenAI) -> None:
    """Refused once, every model of it rests on every node until the order to activate."""
    cluster.order("locked.alpha", "401")
    with pytest.raises(APIStatusError):
        await ask(client, "locked")
    cluster.order("locked.alpha", "ok")
    row = await cluster.provider("locked-alpha")
    with pytest.raises(InternalServerError):
        await ask(client, "locked")
    shown = await _probe(cluster, "locked.alpha")
    await cluster.ops("providers/locked-alpha/activate", order={})

    assert (row["status"], row["reason"], row["trigger"], row["until"]) == ("standby", "auth", "manual", None)
    assert shown["verdict"] == "not_asked"
    assert {(await _ask_at(cluster, number, "locked")).model for number in range(3)} == {"locked.alpha"}


async def _await_panic(cluster: Cluster, *, asked: int | None) -> None:
    """The panic of the pool, once the nodes have reported so many requests on faith; None for its end."""

    async def seen() -> bool:
        pools = (await cluster.ops("pools"))["pools"]
        panic = next(row["panic"] for row in pools if row["id"] == "panicky")
        return (panic and panic["asked"]) == asked

    await wait_until(seen, interval=0.05, what=f"a panic with {asked} requests on faith")


async def _ask_at(cluster: Cluster, number: int, model: str) -> Any:
    """One request to one of the nodes; its view may be a moment behind."""
    async with cluster.client(cluster.nodes[number]) as client:

        async def answered() -> Any:
            try:
                return await ask(client, model)
            except APIStatusError:
                return None

        return await wait_until(answered, what=f"node {number} to serve {model}")


async def _probe(cluster: Cluster, model: str) -> dict[str, Any]:
    return await cluster.ops(f"models/{model}/probe", order={})


async def _runs(cluster: Cluster, job: str) -> int:
    jobs = (await cluster.ops("status"))["scheduler"]["jobs"]
    return int(next(row["runs"] for row in jobs if row["name"] == job))


async def _has_run(cluster: Cluster, job: str, times: int) -> bool:
    return await _runs(cluster, job) >= times
