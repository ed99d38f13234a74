"""P2 and P8: nodes are killed, drained and started again under load; these tests have a cluster of their own."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable

import pytest
from openai import AsyncOpenAI

from tests.cluster.calls import Answer, Load, ask
from tests.cluster.cluster import Cluster
from tests.cluster.mesh import Member, mesh, pool
from tests.support.processes import wait_until

pytestmark = pytest.mark.cluster

_LIMIT = 60
_LEASE_S = 5.0
_POOLS = (
    pool("load", "alpha"),
    pool("minute", Member("beta", limits={"rpm": _LIMIT})),
    pool("talk", *(Member("alpha", name) for name in ("one", "two", "three")), strategy="session-stickiness"),
)


@pytest.fixture(scope="module")
def cluster(start_cluster: Callable[..., Cluster]) -> Cluster:
    """Three nodes; each test leaves them all running."""
    mocks = {"alpha": {"token_delay": "4ms"}, "beta": {"latency": "1500ms"}}
    return start_cluster(mesh(*_POOLS, server={"drain": "10s"}), mocks=mocks)


async def test_a_killed_node_takes_no_limit_with_it(cluster: Cluster):
    """Nodes admit 60 a minute though one dies in the middle; what it held is booked as abandoned by the reaper."""
    victim = cluster.nodes[0]
    async with cluster.client() as client, cluster.client(victim) as direct:
        held = [asyncio.create_task(ask(direct, "minute")) for _ in range(20)]
        await wait_until(lambda: len(cluster.seen("minute.beta")) >= 20)
        victim.process.kill()
        killed = time.monotonic()
        rest = await asyncio.gather(*(ask(client, "minute") for _ in range(200)), return_exceptions=True)
        lost = await asyncio.gather(*held, return_exceptions=True)
        counts = cluster.mocks["beta"].counts()

        async def abandoned() -> bool:
            books = await cluster.ops("books")
            assert books["balanced"], books
            return bool(books["totals"]["abandoned"] == 20)

        await wait_until(abandoned, interval=0.1, what="20 abandoned reservations")
        took_s = time.monotonic() - killed
        await victim.restart()

    assert counts["max_in_any_60s"]["all"] == counts["total"] == _LIMIT
    assert sum(isinstance(result, Answer) for result in rest) == _LIMIT - 20
    assert not any(isinstance(result, Answer) for result in lost)
    assert took_s < _LEASE_S + 3
    assert await cluster.books_of("minute") == {"admitted": 60, "settled": 40, "abandoned": 20}


async def test_a_killed_node_fails_only_what_it_was_working_on(cluster: Cluster):
    """Under load behind nginx a killed node loses its own requests; whoever asks afterwards is served."""
    victim = cluster.nodes[1]
    async with cluster.client() as client, Load(client, "load", clients=12) as load:
        await wait_until(lambda: load.answered > 30)
        victim.process.kill()
        killed = time.monotonic()
        before = load.answered
        await wait_until(lambda: load.answered > before + 200)

    assert [failure.error for failure in load.failures if failure.started > killed] == []
    assert len(load.failures) <= 12
    assert {entry["upstream"] for entry in _failed(cluster)} <= {f"127.0.0.1:{victim.port}"}
    await victim.restart()


def _failed(cluster: Cluster) -> list[dict[str, object]]:
    """What nginx had to give up for the pool under load."""
    assert cluster.nginx is not None
    return [
        entry
        for entry in cluster.nginx.access_log()
        if entry["status"] == 502 and "," not in entry["upstream"]
    ]


async def test_nodes_are_replaced_under_load_without_a_failed_request(cluster: Cluster):
    """Each node is told to drain and started again; no request fails and no stream is cut."""
    codes = []
    async with cluster.client() as client, Load(client, "load", clients=16) as load:
        for node in cluster.nodes:
            codes.append(await node.process.terminate(15))
            await node.restart()
            # the next one only when this one has work again: nginx remembers for some seconds that it was away
            await node.process.wait_line('"event":"request"')

    assert [failure.error for failure in load.failures] == []
    assert codes == [0, 0, 0]
    assert load.streamed > 100
    await cluster.settled_books()


async def test_who_came_before_the_door_closed_is_served(cluster: Cluster):
    """A connection that was opened while a node still listened may ask after it has stopped to."""
    node = cluster.nodes[0]
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    node.process.send(signal.SIGTERM)
    await wait_until(lambda: not _accepts(node.port), what="the node to stop listening")
    writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    code = await node.process.wait()
    await node.restart()

    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer.lower()
    assert code == 0


def _accepts(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


async def test_sessions_survive_the_node_that_met_them_first(cluster: Cluster):
    """What one node has told Redis all others know, also those that start afterwards; every session keeps its model."""
    victim = cluster.nodes[2]
    names = [f"session {number}" for number in range(9)]
    async with cluster.client(victim) as direct, cluster.client() as client:

        async def told(through: AsyncOpenAI) -> list[str]:
            headers = [{"x-modelmesh-session": name} for name in names]
            return [
                answer.model
                for answer in await asyncio.gather(*(ask(through, "talk", extra_headers=h) for h in headers))
            ]

        first = await told(direct)
        victim.process.kill()
        await victim.process.wait()
        without = await told(client)
        await victim.restart()

    async with cluster.client(victim) as direct:
        again = await told(direct)

    assert len(set(first)) > 1
    assert without == first
    assert again == first
