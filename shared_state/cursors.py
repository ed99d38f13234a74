"""What a pool shares: turns given out in blocks, and the model that a sticky pool points at."""

from __future__ import annotations

from shared_state.store import Store


async def take_turns(store: Store, pool: str, count: int) -> int:
    """Takes ``count`` successive turns; the first of them."""
    last: int = await store.command("INCRBY", store.keys.turns(pool), count)
    return last - count


async def read_current(store: Store, pool: str) -> str:
    """The model that the pool points at, empty for none."""
    raw: bytes | None = await store.command("GET", store.keys.current(pool))
    return raw.decode() if raw else ""


async def move_current(store: Store, pool: str, *, seen: str, model: str) -> str:
    """Points the pool at ``model`` if it still points at ``seen``; the model that it points at now."""
    current: bytes = await store.run("move_current", [store.keys.current(pool)], [seen, model])
    return current.decode()
