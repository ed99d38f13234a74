"""What strikes the fleet while it is under load. Each fault is over when it returns, and leaves a fleet that can serve."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import redis.asyncio

from benchmarks.exactness_fleet import Fleet
from tests.cluster.cluster import Node
from tests.support.processes import wait_until

#: Longer than a node may be silent before it is taken for dead.
_NODE_FROZEN_S: Final = 7.0
_STORE_FROZEN_S: Final = 10.0
_SHORT_FREEZE_S: Final = 3.0
#: Longer than nodes wait for an answer, so that some of what is lost was never answered.
_LOST_S, _FROZEN_BEFORE_LOSS_S = 0.3, 0.7
_PATIENCE_S: Final = 60.0
_TOLD_FOR_S: Final = 2.0
_NO_SCHEDULER_S: Final = (1.0, 3.0)
_MOST_NODES, _LEAST_NODES = 6, 2

Fault = Callable[[Fleet, random.Random], Awaitable[None]]


@asynccontextmanager
async def _victim(fleet: Fleet, rng: random.Random) -> AsyncIterator[Node]:
    """A node that no other fault touches meanwhile."""
    await wait_until(lambda: fleet.idle_nodes, _PATIENCE_S, what="a node that no other fault holds")
    node = rng.choice(fleet.idle_nodes)
    fleet.busy.add(node)
    try:
        yield node
    finally:
        fleet.busy.discard(node)


async def kill_node(fleet: Fleet, rng: random.Random) -> None:
    """A node dies and is started again."""
    async with _victim(fleet, rng) as node:
        node.process.kill()
        await fleet.restart(node)


async def freeze_node(fleet: Fleet, rng: random.Random) -> None:
    """A node stops for so long that it is taken for dead, and then goes on as if nothing had happened."""
    async with _victim(fleet, rng) as node:
        node.process.stop()
        try:
            await asyncio.sleep(_NODE_FROZEN_S)
        finally:
            node.process.cont()


async def kill_scheduler(fleet: Fleet, rng: random.Random) -> None:
    """All schedulers die; after a while without any a new one takes over."""
    for scheduler in fleet.cluster.schedulers:
        if scheduler.is_running:
            scheduler.kill()
    await asyncio.sleep(rng.uniform(*_NO_SCHEDULER_S))
    fleet.cluster.start_scheduler()


async def restart_store(fleet: Fleet, _: random.Random) -> None:
    """The store dies and comes back with its append-only file; where the disk is slow, without its last writes."""
    await asyncio.to_thread(fleet.cluster.valkey.kill)
    fleet.cluster.valkey.start()


async def lose_tail(fleet: Fleet, _: random.Random) -> None:
    """The store freezes, goes on, dies, and comes back without its last moments, as after the death of its machine."""
    store = fleet.cluster.valkey
    size = store.log_size
    await asyncio.sleep(_LOST_S)
    store.freeze()
    await asyncio.sleep(_FROZEN_BEFORE_LOSS_S)
    store.thaw()
    await asyncio.to_thread(store.kill)
    store.lose_tail(size)  # started by this thread, for it ends with the one that starts it


def freeze_store(frozen_s: float) -> Fault:
    """The store stops answering with every connection open."""

    async def fault(fleet: Fleet, _: random.Random) -> None:
        # another fault may be about to restart it
        process = await wait_until(lambda: fleet.cluster.valkey.process, what="the store to run")
        process.stop()
        try:
            await asyncio.sleep(frozen_s)
        finally:
            process.cont()

    return fault


async def cut_events(fleet: Fleet, _: random.Random) -> None:
    """For two seconds every subscription is cut as soon as it stands."""
    await _tell_store(fleet, "CLIENT", "KILL", "TYPE", "pubsub", times=20)


async def flush_scripts(fleet: Fleet, _: random.Random) -> None:
    """For two seconds the store forgets all scripts again and again."""
    await _tell_store(fleet, "SCRIPT", "FLUSH", times=40)


async def _tell_store(fleet: Fleet, *words: str, times: int) -> None:
    async with redis.asyncio.Redis.from_url(fleet.cluster.valkey.url, socket_timeout=1.0) as client:
        for _ in range(times):
            with suppress(redis.asyncio.RedisError):  # another fault may have taken it away
                await client.execute_command(*words)  # type: ignore[no-untyped-call]
            await asyncio.sleep(_TOLD_FOR_S / times)


async def scale(fleet: Fleet, _: random.Random) -> None:
    """Nodes join, and most of them leave again."""
    count = len(fleet.cluster.nodes)
    await fleet.scale(_MOST_NODES)
    await asyncio.sleep(1.0)
    await fleet.scale(_LEAST_NODES)
    await asyncio.sleep(1.0)
    await fleet.scale(count)


FAULTS: Final[dict[str, Fault]] = {
    "node-kill": kill_node,
    "node-freeze": freeze_node,
    "scheduler-kill": kill_scheduler,
    "redis-restart": restart_store,
    "redis-freeze": freeze_store(_STORE_FROZEN_S),
    "pubsub-cut": cut_events,
    "script-flush": flush_scripts,
    "scale": scale,
}
#: The same in less time, for the suite of tests.
SHORT: Final[dict[str, Fault]] = FAULTS | {"redis-freeze": freeze_store(_SHORT_FREEZE_S)}
#: Never among the others: what only a node remembers is lost with it.
ALONE: Final[dict[str, Fault]] = {"redis-loss": lose_tail}
