"""What nodes share of how long attempts wait for their first content."""

from __future__ import annotations

import pytest

from shared_state.waits import Wait, share_waits
from tests.redis.ground import EPOCH_MS, SteeredStore

SMALL, BIG = "alpha.small", "alpha.big"


@pytest.fixture
async def store(valkey_server, namespace):
    store = SteeredStore(valkey_server.url, namespace=namespace)
    await store.set_time(EPOCH_MS)
    yield store
    await store.aclose()


def waits(node: str, *ms: int) -> list[Wait]:
    return [Wait(f"{node}-{number}", wait) for number, wait in enumerate(ms)]


async def told(store: SteeredStore, node: str, *ms: int) -> float | None:
    return (await share_waits(store, "alpha", {SMALL: waits(node, *ms)}))[SMALL]


async def test_twenty_attempts_of_all_nodes_tell_what_is_usual(store):
    """One node has seen ten, another ten more; a third hears of it."""
    assert await told(store, "n1", *range(10, 110, 10)) is None
    assert await told(store, "n2", *range(110, 210, 10)) == 0.2
    assert await told(store, "n3") == 0.2


async def test_it_is_reckoned_once_a_second(store):
    """However many nodes ask; what they tell meanwhile counts from then on."""
    await told(store, "n1", *range(10, 210, 10))
    within = [await told(store, "n2", *[5] * 20), await told(store, "n3")]
    await store.pass_time(1000)

    assert within == [0.2, 0.2]
    assert await told(store, "n3") == 0.190


async def test_models_are_apart(store):
    """Each has its own."""
    heard = await share_waits(store, "alpha", {SMALL: waits("n1", *[100] * 20), BIG: waits("n1", 900)})

    assert heard == {SMALL: 0.1, BIG: None}


async def test_told_twice_counts_once(store):
    """An attempt is known by its reservation."""
    await told(store, "n1", *[100] * 19)

    assert await told(store, "n1", *[100] * 19) is None


async def test_the_latest_two_hundred_are_kept(store):
    """What was slow an hour of traffic ago says nothing of now."""
    await told(store, "n1", *[900] * 200)
    await store.pass_time(1000)
    await told(store, "n2", *[100] * 195)

    assert await told(store, "n3") == 0.1
    assert await store.client.zcard(store.keys.waits("alpha", SMALL)) == 200


async def test_what_is_ten_minutes_old_is_forgotten(store):
    """The key goes by itself, and before that its old members count no more."""
    await told(store, "n1", *[900] * 30)
    ttl_ms = await store.client.pttl(store.keys.waits("alpha", SMALL))
    await store.pass_time(600_001)

    assert 0 < ttl_ms <= 600_000
    assert await told(store, "n2", *[100] * 19) is None
