"""Which model a session belongs to, for all nodes: one small key a session, which dies when the session falls silent."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

from shared_state.store import Store

_DIGEST: Final = re.compile(r"~[0-9a-f]{32}")


def session_digest(session: str) -> str:
    """What stands for a session wherever it is kept or compared; a digest stands for itself, empty for none.

    Callers choose the names: a digest keeps their length, and what they may say of people, out of Redis.
    """
    if not session or _DIGEST.fullmatch(session):
        return session
    return "~" + blake2b(session.encode(), digest_size=16).hexdigest()


async def hold_session(store: Store, pool: str, session: str, *, seen: str, model: str, life_ms: int) -> str:
    """Gives the session to ``model`` if it still belongs to ``seen``; the model that it belongs to now. Sending it again is safe.

    Raises:
        RedisError, OSError, TimeoutError: the store is away; the session may have been given.
    """
    key = store.keys.session(pool, session_digest(session))
    held: bytes = await store.run("hold_session", [key], [seen, model, life_ms])
    return held.decode()


async def read_session(store: Store, pool: str, session: str) -> str:
    """The model that a session belongs to, empty for none; its life goes on as it was.

    Raises:
        RedisError, OSError, TimeoutError: the store is away.
    """
    held: bytes | None = await store.command("GET", store.keys.session(pool, session_digest(session)))
    return held.decode() if held else ""
