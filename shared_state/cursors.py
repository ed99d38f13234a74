"""What a pool shares: turns given out in blocks, and the model that a sticky pool points at."""

from __future__ import annotations

from collections.abc import Sequence

from shared_state.cancellation import obey_cancellation
from shared_state.deadline import Deadline
from shared_state.store import Store


async def take_turns(store: Store, pool: str, count: int) -> int:
    """Takes ``count`` successive turns; the first of them."""
    last: int = await store.command("INCRBY", store.keys.turns(pool), count)
    return last - count


async def next_turn(store: Store, pool: str) -> int:
    """The turn that would be given out next; nobody takes it."""
    return int(await store.command("GET", store.keys.turns(pool)) or 0)


async def read_currents(store: Store, pools: Sequence[str]) -> dict[str, str]:
    """The model that each pool points at, empty for none; one round trip."""
    pipe = store.client.pipeline(transaction=False)
    for pool in pools:
        pipe.get(store.keys.current(pool))
    async with Deadline(store.timeout_s):
        replies: list[bytes | None] = await pipe.execute()
    obey_cancellation()
    return {pool: raw.decode() if raw else "" for pool, raw in zip(pools, replies, strict=True)}


async def read_current(store: Store, pool: str) -> str:
    """The model that a pool points at, empty for none."""
    raw: bytes | None = await store.command("GET", store.keys.current(pool))
    return raw.decode() if raw else ""


async def move_current(store: Store, pool: str, *, seen: str, model: str) -> str:
    """Points the pool at ``model`` if it still points at ``seen``; the model that it points at now."""
    current: bytes = await store.run("move_current", [store.keys.current(pool)], [seen, model])
    return current.decode()
