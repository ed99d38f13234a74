"""Which model a session belongs to, for all nodes: one small key a session, which dies when the session falls silent."""

from __future__ import annotations

from hashlib import blake2b

from shared_state.store import Store


async def hold_session(store: Store, pool: str, session: str, *, seen: str, model: str, life_ms: int) -> str:
    """Gives the session to ``model`` if it still belongs to ``seen``; the model that it belongs to now. Sending it again is safe.

    Raises:
        RedisError, OSError, TimeoutError: the store is away; the session may have been given.
    """
    # Callers choose the names: a digest keeps their length, and what they may say of people, out of Redis.
    digest = blake2b(session.encode(), digest_size=16).hexdigest()
    held: bytes = await store.run("hold_session", [store.keys.session(pool, digest)], [seen, model, life_ms])
    return held.decode()
