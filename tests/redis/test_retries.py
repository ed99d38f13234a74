"""The retry budget that nodes share: never more than the fleet may make, whoever asks when."""

from __future__ import annotations

import itertools
import random

import pytest

from shared_state.retries import Sent, share_retries
from tests.redis.ground import EPOCH_MS, SteeredStore


@pytest.fixture
async def store(valkey_server, namespace):
    store = SteeredStore(valkey_server.url, namespace=namespace)
    await store.set_time(EPOCH_MS)
    yield store
    await store.aclose()


class Node:
    """A node of the pool's fleet, as far as its reports go."""

    def __init__(self, store: SteeredStore, name: str, *, nodes: int = 3) -> None:
        self.store = store
        self.name = name
        self.nodes = nodes
        self.numbers = itertools.count(1)
        self.part = 0

    async def tell(self, requests: int = 0, retries: int = 0, *, sequence: int = 0) -> int:
        sent = Sent(sequence or next(self.numbers), requests, retries)
        self.part = await share_retries(
            self.store, "chat", sent, node=self.name, share=0.1, floor=10, nodes=self.nodes
        )
        return self.part


@pytest.fixture
def nodes(store):
    return [Node(store, f"n{number}") for number in range(3)]


async def test_a_quiet_fleet_shares_the_floor(nodes):
    """Ten a second over ten seconds for three nodes."""
    parts = [await node.tell() for node in nodes]

    assert parts == [33, 33, 34]


async def test_a_busy_fleet_shares_a_tenth_of_its_requests(nodes):
    """Whoever has sent them."""
    await nodes[0].tell(3000)

    assert [await node.tell() for node in nodes] == [100, 100, 100]


async def test_retries_come_off_for_ten_seconds(store, nodes):
    """Then they are forgotten, and so are the requests."""
    await nodes[0].tell(3000, 300)
    await store.pass_time(9_000)
    assert await nodes[0].tell() == 0
    await store.pass_time(1_000)

    assert await nodes[0].tell() == 33


async def test_a_report_is_booked_once(nodes):
    """A node that heard no answer says the same again."""
    for _ in range(3):
        part = await nodes[0].tell(0, 10, sequence=1)

    assert part == 23  # of 90, less what two silent nodes may spend by themselves


async def test_the_part_of_a_node_that_is_gone_comes_back(store, nodes):
    """Until it expires others get no more than the little that is never spoken for."""
    await nodes[0].tell(3000)
    assert [await node.tell() for node in nodes[:2]] == [100, 100]
    assert await nodes[2].tell(0, 200) == 8
    await store.pass_time(2_600)

    assert await nodes[2].tell() == 33


async def test_what_is_given_is_never_more_than_is_left(store, nodes):
    """Nodes that report in any order, spend any part of theirs and vanish at times."""
    draw = random.Random(7)
    made: list[tuple[int, int]] = []
    requested: list[tuple[int, int]] = []
    now = 0
    for _ in range(400):
        now += draw.randrange(400)
        await store.set_time(EPOCH_MS + now)
        node = draw.choice(nodes)
        requests, retries = draw.randrange(300), draw.randint(0, node.part)
        made.append((now, retries))
        requested.append((now, requests))
        await node.tell(requests, retries)
        window = now - now % 1000 - 10_000
        spent = sum(count for at, count in made if at >= window + 1000)
        allowed = max(100.0, 0.1 * sum(count for at, count in requested if at >= window + 1000))
        # what was given when more was allowed may still be spent
        peak = max(100.0, 0.1 * sum(count for at, count in requested if at >= window - 2500))

        assert spent <= max(allowed, peak)
    assert sum(count for _, count in made) > 500


async def test_the_key_dies_with_the_traffic(store, nodes):
    """A minute after the last report."""
    await nodes[0].tell(10)

    assert 0 < await store.client.pttl(store.keys.retries("chat")) <= 60_000


async def test_a_node_that_knew_of_nobody_does_not_starve_the_others(store, nodes):
    """One that has just started may hold all of the floor; the first request after a failure must be served on the others too."""
    lonely = Node(store, "lonely", nodes=1)

    assert await lonely.tell(10) == 100
    assert await nodes[0].tell(10) == 8
