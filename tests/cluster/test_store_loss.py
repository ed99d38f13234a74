"""P4: Redis missing, frozen and back: nodes keep answering as far as they may, say so, and the books balance afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import httpx
import pytest
from openai import InternalServerError

from tests.cluster.calls import Answer, Told, ask, listen
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, mesh, pool
from tests.support.processes import wait_until

pytestmark = pytest.mark.cluster

_TIMEOUT_S = 0.25
_FROZEN_S = 3.0
_LIMIT = 40
_POOLS = (
    pool("free", "alpha"),
    pool("metered", Member("alpha", limits={"rpm": _LIMIT})),
    pool("long", Member("alpha", limits={"concurrency": 4})),
)


async def _await_exact(cluster: Cluster) -> None:
    """Waits until every node has found Redis again, and has handed in what was left to settle."""
    async with httpx.AsyncClient(verify=False) as web:

        async def are_exact() -> bool:
            answers = [await web.get(f"{node.base_url}/ready") for node in cluster.nodes]
            return all(answer.json()["mode"] == "exact" for answer in answers)

        await wait_until(are_exact, what="every node's mode to be exact again")
    await cluster.settled_books()


async def test_a_node_that_starts_without_redis_waits_for_it(start_cluster: Callable[..., Cluster]):
    """It says so, answers 503 meanwhile, and serves by itself as soon as Redis is there."""
    cluster = start_cluster(mesh(*_POOLS), mocks={"alpha": {}}, nodes=1, starts_valkey=False)
    (node,) = cluster.nodes
    await node.process.wait_line("waiting for the shared state")
    async with httpx.AsyncClient(verify=False, base_url=cluster.base_url) as web, cluster.client() as client:
        health, ready = await web.get("/health"), await web.get("/ready")
        with pytest.raises(InternalServerError) as refused:
            await ask(client, "free")
        cluster.valkey.start()

        async def is_ready() -> bool:
            return (await web.get("/ready")).status_code == 200

        await wait_until(is_ready)
        answer = await ask(client, "free")

    assert (health.status_code, ready.status_code) == (200, 503)
    assert ready.json()["ready"] is False
    assert refused.value.status_code == 503
    assert float(refused.value.response.headers["retry-after"]) >= 1
    assert answer.headers["x-modelmesh-mode"] == "exact"


Result = Answer | Told | BaseException


async def _ask_while_frozen(cluster: Cluster, *pools: str) -> tuple[dict[str, list[Result]], float]:
    """What each pool answers while Redis says nothing, and how long the slowest request took."""
    slowest_s = 0.0
    results: dict[str, list[Result]] = {name: [] for name in pools}
    async with cluster.client() as client:
        # connections that are open already carry the first admissions into the frozen server, to be carried out later
        await asyncio.gather(*(ask(client, name) for name in pools for _ in range(8)))
        cluster.valkey.freeze()
        thaw_at = time.monotonic() + _FROZEN_S
        while time.monotonic() < thaw_at:
            started = time.monotonic()
            calls = [call(client, name) for name in pools for call in (ask, listen)]
            done = await asyncio.gather(*calls, return_exceptions=True)
            for number, name in enumerate(pools):
                results[name] += done[2 * number : 2 * number + 2]
            slowest_s = max(slowest_s, time.monotonic() - started)
    cluster.valkey.thaw()
    return results, slowest_s


def _modes(results: Iterable[Result]) -> set[str]:
    return {str(getattr(result, "headers", {}).get("x-modelmesh-mode")) for result in results}


async def test_with_on_loss_open_a_frozen_redis_fails_nobody(start_cluster: Callable[..., Cluster]):
    """Requests pay for one timeout at most, those under way end well, and afterwards all is exact and balanced."""
    config = mesh(*_POOLS, redis={"on_loss": "open"})
    cluster = start_cluster(config, mocks={"alpha": {}}, nodes=2)
    cluster.order("long.alpha", "slow-head=1s")
    async with cluster.client() as client:
        under_way = [asyncio.create_task(ask(client, "long")) for _ in range(4)]
        await wait_until(lambda: len(cluster.seen("long.alpha")) == 4)
        results, slowest_s = await _ask_while_frozen(cluster, "free", "metered")
        await asyncio.gather(*under_way)
        await _await_exact(cluster)
        after = await asyncio.gather(*(ask(client, name) for name in ("free", "long") for _ in range(4)))

    for answers in results.values():
        # the first ones may have been sent before anybody had noticed
        assert _modes(answers[:4]) <= {"exact", "open"}
        assert _modes(answers[4:]) == {"open"}
    assert slowest_s < _TIMEOUT_S + _FROZEN_S / 2
    assert _modes(after) == {"exact"}
    await cluster.settled_books()


async def test_with_on_loss_leased_limits_are_kept_while_redis_is_frozen(
    start_cluster: Callable[..., Cluster],
):
    """A limited model is served from what was paid before, if at all, then refused with a time to come back."""
    cluster = start_cluster(mesh(*_POOLS), mocks={"alpha": {}}, nodes=2)
    results, slowest_s = await _ask_while_frozen(cluster, "free", "metered")
    await _await_exact(cluster)
    async with cluster.client() as client:
        after = await asyncio.gather(*(ask(client, "free") for _ in range(4)))
    refused = [error for error in results["metered"] if isinstance(error, BaseException)]
    served = [answer for answer in results["metered"] if not isinstance(answer, BaseException)]

    assert _modes(results["free"][4:]) == {"leased"}
    assert len(refused) > len(served)
    assert all(isinstance(error, InternalServerError) for error in refused)
    assert {error.status_code for error in refused} == {503}
    assert all(float(error.response.headers["retry-after"]) >= 1 for error in refused)
    assert _modes(served) <= {"leased"}
    assert len(cluster.seen("metered.alpha")) <= _LIMIT
    assert slowest_s < _TIMEOUT_S + _FROZEN_S / 2
    assert _modes(after) == {"exact"}


async def test_a_node_that_dies_in_an_outage_loses_no_record(start_cluster: Callable[..., Cluster]):
    """What it had served and could not book is on its disk; whoever starts there next books it, once."""
    config = mesh(*_POOLS, redis={"on_loss": "open"})
    cluster = start_cluster(config, mocks={"alpha": {}}, nodes=1)
    (node,) = cluster.nodes
    async with cluster.client() as client:
        await asyncio.gather(*(ask(client, "free") for _ in range(4)))
        await cluster.settled_books()
        cluster.valkey.freeze()
        await asyncio.gather(*(ask(client, "free") for _ in range(6)))
        await wait_until(lambda: cluster.spooled() >= 6, what="the records to be on disk")
    node.process.kill()
    cluster.valkey.thaw()
    await node.restart()
    await wait_until(lambda: cluster.spooled() == 0, what="the records to be booked")
    first = await cluster.books_of("free")
    await node.restart()
    again = await cluster.books_of("free")

    assert len(cluster.seen("free.alpha")) == 10
    assert first["settled"] >= 10  # and what the frozen server admitted late, which was given back
    assert first["abandoned"] == 0
    assert again == first
