"""P3: what one node learns or is told, all nodes obey: at once by event, within a poll if every event is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from statistics import quantiles

import httpx
import pytest

from tests.cluster.calls import ask
from tests.cluster.cluster import Cluster, Node
from tests.cluster.mesh import mesh, pool

pytestmark = pytest.mark.cluster

_BY_EVENT_S = 0.050
_BY_POLL_S = 1.0


@pytest.fixture(scope="module")
def cluster(start_cluster: Callable[..., Cluster]) -> Cluster:
    """Few pools, so that looking at them is quick; one node never hears an event."""
    config = mesh(pool("ordered", "alpha", "beta"), pool("tripping", "alpha", "beta"))
    return start_cluster(config, mocks={"alpha": {}, "beta": {}}, deaf_nodes=1)


class Observer:
    """Looks at a pool as one node sees it, over a connection that stays open."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def active(self, pool_id: str) -> int:
        """Active models of the pool."""
        response = await self._client.get("/ops/pools")
        return next(int(row["active"]) for row in response.json()["pools"] if row["id"] == pool_id)

    async def await_active(self, pool_id: str, wanted: int) -> float:
        """Waits for that many active models; the loop's time at which the sight was asked for."""
        while True:
            asked = time.monotonic()
            if await self.active(pool_id) == wanted:
                return asked


@pytest.fixture
async def observe(cluster: Cluster) -> AsyncIterator[Callable[[Node], Observer]]:
    """Observers of nodes."""
    async with AsyncExitStack() as stack:
        clients = {
            node.port: await stack.enter_async_context(
                httpx.AsyncClient(verify=False, base_url=node.base_url)
            )
            for node in [*cluster.nodes, *cluster.deaf_nodes]
        }
        yield lambda node: Observer(clients[node.port])


async def test_an_order_is_obeyed_by_all_nodes_at_once(cluster: Cluster, observe: Callable[[Node], Observer]):
    """A model that is taken out on one node is out on the others within 50 ms, and back as fast."""
    giver, *others = cluster.nodes
    delays = []
    for _ in range(10):
        for action, wanted in (("deactivate", 1), ("activate", 2)):
            await cluster.ops(f"models/ordered.alpha/{action}", node=giver, order={})
            given = time.monotonic()
            async with asyncio.timeout(30):
                times = await asyncio.gather(
                    *(observe(node).await_active("ordered", wanted) for node in others)
                )
            delays += [at - given for at in times]

    quarter, half, _ = quantiles(delays, n=4)

    assert quarter < _BY_EVENT_S  # the others had to wait for a core
    assert half < _BY_POLL_S / 4


async def test_an_order_is_obeyed_though_no_event_arrives(
    cluster: Cluster, observe: Callable[[Node], Observer]
):
    """A node that may not subscribe finds out by itself, within its poll."""
    (deaf,) = cluster.deaf_nodes
    async with asyncio.timeout(30):
        await observe(deaf).await_active("ordered", 2)
        await cluster.ops("models/ordered.alpha/deactivate", order={})
        given = time.monotonic()
        delay_s = await observe(deaf).await_active("ordered", 1) - given
    await cluster.ops("models/ordered.alpha/activate", order={})

    assert delay_s < 3 * _BY_POLL_S


async def test_a_model_that_was_taken_out_gets_no_request_from_any_node(cluster: Cluster):
    """Not one request slips through, even from a node that has not heard of it yet."""
    answers = []
    await cluster.ops("models/ordered.alpha/deactivate", order={})
    for node in [*cluster.nodes, *cluster.deaf_nodes]:
        async with cluster.client(node) as client:
            answers += await asyncio.gather(*(ask(client, "ordered") for _ in range(5)))
    await cluster.ops("models/ordered.alpha/activate", order={})

    assert {answer.model for answer in answers} == {"ordered.beta"}
    assert cluster.seen("ordered.alpha") == []


async def test_errors_on_one_node_take_the_model_out_on_all(
    cluster: Cluster, observe: Callable[[Node], Observer]
):
    """The third failure in a row is enough, and the other nodes do not have to find out for themselves."""
    first, *others = cluster.nodes
    cluster.order("tripping.alpha", "500")
    async with cluster.client(first) as client:
        answers = [await ask(client, "tripping") for _ in range(3)]
    failed = time.monotonic()
    async with asyncio.timeout(30):
        times = await asyncio.gather(*(observe(node).await_active("tripping", 1) for node in others))
    for node in others:
        async with cluster.client(node) as client:
            answers.append(await ask(client, "tripping"))
    row = await cluster.model("tripping.alpha")

    assert max(times) - failed < _BY_POLL_S / 2
    assert {answer.model for answer in answers} == {"tripping.beta"}
    assert len(cluster.seen("tripping.alpha")) == 3
    assert (row["status"], row["reason"]) == ("standby", "error_threshold")


async def test_the_event_tells_who_and_why(cluster: Cluster):
    """Operators see each change of state with its reason and the node that made it."""
    await cluster.ops("models/ordered.beta/deactivate", node=cluster.nodes[1], order={"reason": "a whim"})
    await cluster.ops("models/ordered.beta/activate", order={})

    events = (await cluster.ops("status"))["events"]
    event = next(event for event in events if event["type"] == "model_deactivated")

    assert (event["model"], event["reason"]) == ("ordered.beta", "a whim")
    assert event["node"].startswith("n2-")
