"""The shared state loses its last moments, or everything: nodes say it again, keep the limits, and report what they corrected."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import httpx
import pytest
from openai import AsyncOpenAI

from tests.cluster.calls import ask
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, mesh, pool
from tests.support.processes import wait_until

pytestmark = pytest.mark.cluster

_LIMIT = 60
_BEFORE, _LOST, _AFTER = 8, 14, 90


async def _corrected(cluster: Cluster, what: str) -> int:
    """Sum over all nodes of a counter of corrections."""
    async with httpx.AsyncClient(verify=False) as web:
        texts = [(await web.get(f"{node.base_url}/metrics")).text for node in cluster.nodes]
    found = re.findall(rf"^modelmesh_corrected_{what}_total{{.*}} (\S+)$", "\n".join(texts), re.MULTILINE)
    return round(sum(map(float, found)))


async def _modes(cluster: Cluster) -> list[str]:
    async with httpx.AsyncClient(verify=False) as web:
        return [(await web.get(f"{node.base_url}/ready")).json()["mode"] for node in cluster.nodes]


async def _served(client: AsyncOpenAI, count: int) -> int:
    results = await asyncio.gather(*(ask(client, "metered") for _ in range(count)), return_exceptions=True)
    return sum(not isinstance(result, BaseException) for result in results)


@pytest.mark.parametrize("loss", ["tail", "everything"])
async def test_no_limit_is_exceeded_by_what_the_store_forgot(
    start_cluster: Callable[..., Cluster], loss: str
):
    """Every request that the provider saw counts, also those that the server has never heard of."""
    metered = pool("metered", Member("alpha", limits={"rpm": _LIMIT}))
    config = mesh(metered, scheduler={"copy_interval": 0})  # no copy helps the nodes to remember
    cluster = start_cluster(config, mocks={"alpha": {}}, nodes=2, persistence=True)
    async with cluster.client() as client:
        assert await _served(client, _BEFORE) == _BEFORE
        await cluster.settled_books()
        size = cluster.valkey.log_size
        assert await _served(client, _LOST) == _LOST
        await cluster.settled_books()
        if loss == "tail":
            cluster.valkey.lose_tail(size)
        else:
            cluster.valkey.restart(keep_data=False)
        forgotten = _LOST if loss == "tail" else _BEFORE + _LOST

        async def are_corrected() -> bool:
            return await _corrected(cluster, "admissions") >= forgotten

        await wait_until(are_corrected, what="both nodes to have said what they know")
        modes = await _modes(cluster)

        async def are_exact() -> bool:
            return set(await _modes(cluster)) == {"exact"}

        await wait_until(are_exact, what="the hold to end")
        await _served(client, _AFTER)
        books = await cluster.settled_books()
    events = (await cluster.ops("status"))["events"]

    assert await _corrected(cluster, "admissions") == forgotten
    assert set(modes) <= {"leased", "exact"}
    if loss == "everything":
        assert "leased" in modes
    seen = len(cluster.seen("metered.alpha"))
    assert _LIMIT - 15 <= seen <= _LIMIT  # what the nodes hold as leases is nobody else's
    assert books["totals"]["admitted"] == seen
    causes = {event["reason"] for event in events if event["type"] == "state_corrected"}
    assert causes == {"restart" if loss == "tail" else "empty"}
