"""Turns in blocks, and pointers of sticky pools, with and without Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from node.routing.cursors import Cursors
from shared_state.keys import Keys
from tests.unit.node.house import Watch
from tests.unit.node.virtual_time import in_virtual_time, settle_down


class Counters:
    """The two things of Redis that cursors use: a counter a pool, and a pointer a pool."""

    def __init__(self) -> None:
        self.keys = Keys("t")
        self.blocks: list[int] = []
        self.last = 0
        self.current: dict[str, str] = {}
        self.wait: Callable[[], Awaitable[object]] | None = None
        self.error: Exception | None = None

    async def command(self, *words: Any) -> int:
        name, _, count = words
        assert name == "INCRBY"
        await self._answer()
        self.blocks.append(count)
        self.last += count
        return self.last

    async def run(self, script: str, keys: list[str], args: list[str]) -> bytes:
        assert script == "move_current"
        await self._answer()
        seen, model = args
        if self.current.get(keys[0], "") == seen:
            self.current[keys[0]] = model
        return self.current[keys[0]].encode()

    async def _answer(self) -> None:
        if self.wait is not None:
            await self.wait()
        if self.error is not None:
            raise self.error


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def cursors(counters: Counters, watch: Watch) -> Cursors:
    return Cursors(counters, watch, {})  # type: ignore[arg-type]


async def take(cursors: Cursors, count: int, *, every_s: float = 0.0) -> list[int]:
    """Turns one after the other."""
    turns = []
    for _ in range(count):
        turns.append(await cursors.turn("chat"))
        await asyncio.sleep(every_s)
    return turns


@in_virtual_time
async def test_a_busy_node_takes_growing_blocks(cursors: Cursors, counters: Counters) -> None:
    """Hundreds of turns cost a handful of round trips; a block holds at most 64, and is used to its end."""
    turns = await take(cursors, 1000)

    assert turns == list(range(1000))
    assert counters.blocks[:7] == [1, 2, 4, 8, 16, 32, 64]
    assert max(counters.blocks) == 64
    assert len(counters.blocks) < 40


@in_virtual_time
async def test_a_quiet_node_holds_hardly_any(cursors: Cursors, counters: Counters) -> None:
    """One turn at a time, so that a rare caller does not make the fleet uneven."""
    turns = await take(cursors, 5, every_s=2.0)

    assert turns == [0, 1, 2, 3, 4]
    assert counters.blocks == [1, 1, 1, 1, 1]


@in_virtual_time
async def test_blocks_shrink_when_the_load_goes(cursors: Cursors, counters: Counters) -> None:
    """After a busy time the next block is small again."""
    await take(cursors, 300)
    await take(cursors, 100, every_s=2.0)

    assert counters.blocks[-1] == 1


@in_virtual_time
async def test_the_next_block_is_there_before_the_last_turn_is_used(
    cursors: Cursors, counters: Counters
) -> None:
    """Once blocks are large nobody waits for a round trip."""
    await take(cursors, 200)
    loop = asyncio.get_running_loop()
    counters.wait = lambda: asyncio.sleep(0.001)
    slowest = 0.0

    for _ in range(500):
        began = loop.time()
        await cursors.turn("chat")
        slowest = max(slowest, loop.time() - began)
        await asyncio.sleep(0.0005)

    assert slowest == 0.0


@in_virtual_time
async def test_those_who_wait_share_round_trips(cursors: Cursors, counters: Counters) -> None:
    """A burst after a pause asks Redis a few times for doubling blocks; nobody waits alone, no turn is invented."""
    counters.wait = lambda: asyncio.sleep(0.01)

    turns = await asyncio.gather(*(cursors.turn("chat") for _ in range(50)))

    assert sorted(turns) == list(range(50))
    assert counters.blocks == [1, 2, 4, 8, 16, 32]


@in_virtual_time
async def test_a_waiter_who_gives_up_does_not_end_the_round_trip(
    cursors: Cursors, counters: Counters
) -> None:
    """The block is for the others as well."""
    counters.wait = lambda: asyncio.sleep(0.01)
    first = asyncio.create_task(cursors.turn("chat"))
    second = asyncio.create_task(cursors.turn("chat"))
    await settle_down()

    first.cancel()

    assert await second == 0
    assert counters.blocks == [1]


@in_virtual_time
async def test_without_redis_a_node_counts_by_itself(
    cursors: Cursors, counters: Counters, watch: Watch
) -> None:
    """Successive turns, and not one attempt to ask."""
    watch.connected = False

    turns = await take(cursors, 20)

    assert turns == list(range(turns[0], turns[0] + 20))
    assert counters.blocks == []


@in_virtual_time
async def test_a_failure_is_reported_and_costs_nobody_the_turn(
    cursors: Cursors, counters: Counters, watch: Watch
) -> None:
    """Redis that goes away in the middle: turns go on, and the watch knows."""
    counters.error = ConnectionError("gone")
    turns = await take(cursors, 5)

    assert turns == list(range(turns[0], turns[0] + 5))
    assert len(watch.failures) == 1


@in_virtual_time
async def test_the_shared_sequence_is_taken_up_again(
    cursors: Cursors, counters: Counters, watch: Watch
) -> None:
    """When Redis is back the next turn is one of the cluster's."""
    watch.connected = False
    await take(cursors, 5)
    counters.last = 1_000_000
    watch.connected = True

    assert await cursors.turn("chat") == 1_000_000


@in_virtual_time
async def test_a_pointer_moves_at_once_and_in_redis(cursors: Cursors, counters: Counters) -> None:
    """This node uses the new model without waiting."""
    cursors.point_at("chat", "b")
    assert cursors.current == {"chat": "b"}
    await settle_down()

    assert list(counters.current.values()) == ["b"]
    assert cursors.current == {"chat": "b"}


@in_virtual_time
async def test_the_faster_node_wins(cursors: Cursors, counters: Counters) -> None:
    """Two nodes that see the same failure end at the same model."""
    counters.current[counters.keys.current("chat")] = "c"
    cursors.point_at("chat", "b")
    await settle_down()

    assert cursors.current == {"chat": "c"}


@in_virtual_time
async def test_a_pointer_moves_without_redis(cursors: Cursors, counters: Counters, watch: Watch) -> None:
    """Here only, and the failure is known."""
    counters.error = TimeoutError()
    cursors.point_at("chat", "b")
    await settle_down()
    assert len(watch.failures) == 1

    cursors.point_at("chat", "c")
    await settle_down()

    assert cursors.current == {"chat": "c"}
    assert len(watch.failures) == 1
