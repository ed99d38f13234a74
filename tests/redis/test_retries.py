"""The retry budget that nodes share: never more than the fleet may make, whoever asks when, joins or dies."""

from __future__ import annotations

import itertools
import random

import pytest

from shared_state.config.pools import RetryBudgetConfig
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

    async def tell(
        self, requests: int = 0, retries: int = 0, good: int = 0, *, kept: int | None = 0, sequence: int = 0
    ) -> int:
        sent = Sent(sequence or next(self.numbers), requests, retries, good, kept)
        self.part = await share_retries(
            self.store, "chat", sent, node=self.name, rules=RetryBudgetConfig(), nodes=self.nodes
        )
        return self.part


@pytest.fixture
def nodes(store):
    return [Node(store, f"n{number}") for number in range(3)]


async def test_a_fleet_that_has_just_started_shares_a_fifth_of_the_floor(nodes):
    """Two a second over ten seconds for three nodes, and one that nobody knows of yet."""
    parts = [await node.tell() for node in nodes]

    assert parts == [5, 5, 5]


async def test_good_answers_pay_up_to_the_floor(nodes):
    """One each, whoever has heard them; ten a second over ten seconds at most."""
    await nodes[0].tell(20, 0, 20)
    assert [await node.tell() for node in nodes] == [10, 10, 10]
    await nodes[0].tell(500, 0, 500)

    assert [await node.tell() for node in nodes] == [25, 25, 25]


async def test_a_busy_fleet_shares_a_tenth_of_its_requests(nodes):
    """Whoever has sent them, and however they ended."""
    await nodes[0].tell(4000)

    assert [await node.tell() for node in nodes] == [100, 100, 100]


async def test_retries_come_off_for_ten_seconds(store, nodes):
    """Then they are forgotten, and so are the requests."""
    await nodes[0].tell(4000, 400)
    await store.pass_time(9_000)
    assert await nodes[0].tell() == 0
    await store.pass_time(1_000)

    assert await nodes[0].tell() == 5


async def test_a_report_is_booked_once(nodes):
    """A node that heard no answer says the same again."""
    for _ in range(3):
        part = await nodes[0].tell(400, 20, 0, sequence=1)

    assert part == 5  # a quarter of 40 less 20


async def test_a_newcomer_finds_a_part_that_nobody_holds(store, nodes):
    """Whatever the others know of it."""
    await nodes[0].tell(4000)
    for node in nodes:
        await node.tell()

    assert await Node(store, "new", nodes=4).tell() == 80


async def test_what_a_node_keeps_while_it_reports_stays_its_own(nodes):
    """It may be spending it at this moment; no more than what it was given."""
    first, second, _ = nodes
    assert await first.tell(400) == 10
    assert await second.tell(0, 30) == 0

    assert await first.tell(kept=6) == 6
    assert await first.tell(kept=50) == 6


async def test_a_part_that_is_returned_is_free_at_once(nodes):
    """A node that falls silent wants none."""
    lonely = Node(nodes[0].store, "lonely", nodes=1)
    assert await lonely.tell() == 10
    assert await lonely.tell(kept=None) == 0

    assert [await node.tell() for node in nodes] == [5, 5, 5]


async def test_a_part_that_was_not_reported_is_taken_as_spent(store, nodes):
    """Its node may have died after spending it; for ten seconds from its end nobody else gets it."""
    await nodes[0].tell(4000)
    await nodes[1].tell()
    await store.pass_time(3_000)
    assert await nodes[2].tell() == 50  # of 400, less two parts of 100, for four
    await store.pass_time(9_000)

    assert await nodes[2].tell(4000) == 88  # of 400, less its own 50, which it has not reported in time


async def test_the_sum_holds_whoever_joins_leaves_or_dies(store):
    """Nodes that spend any part of theirs, at any time until it expires, die with it and come back under another name."""
    draw, names = random.Random(7), itertools.count()
    fleet = [Node(store, f"n{next(names)}", nodes=1) for _ in range(3)]
    unreported: dict[str, list[int]] = {}
    made: list[tuple[int, int]] = []
    requested: list[tuple[int, int, int]] = []
    now = 0
    for _ in range(500):
        now += draw.randrange(300)
        await store.set_time(EPOCH_MS + now)
        place = draw.randrange(len(fleet))
        node = fleet[place]
        fresh, given_at = unreported.setdefault(node.name, [0, now])
        spendable = node.part if now < given_at + 2500 else 0
        spent = draw.randint(0, spendable)
        made.append((now, spent))
        if draw.random() < 0.05:
            fleet[place] = Node(store, f"n{next(names)}", nodes=draw.randint(1, 5))
            continue
        requests = draw.randrange(200)
        good = draw.randint(0, min(requests, 5))
        requested.append((now, requests, good))
        await node.tell(requests, spent, good)
        unreported[node.name] = [0, now]
        assert _sum(made, now) <= max(_allowed(requested, now - back) for back in range(0, 2501, 500))
    assert sum(count for _, count in made) > 500


def _sum(made, now):
    return sum(count for at, count in made if at >= _first(now) + 1000)


def _allowed(requested, now):
    seen = [(requests, good) for at, requests, good in requested if _first(now) <= at <= now]
    good = sum(good for _, good in seen)
    return max(0.1 * sum(requests for requests, _ in seen), min(100, 20 + good))


def _first(now):
    return now - now % 1000 - 10_000


async def test_the_key_dies_with_the_traffic(store, nodes):
    """A minute after the last report."""
    await nodes[0].tell(10)

    assert 0 < await store.client.pttl(store.keys.retries("chat")) <= 60_000
