"""Records of decisions in Redis: one key a request, which dies by itself. Nothing depends on them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final

from shared_state.cancellation import obey_cancellation
from shared_state.deadline import Deadline
from shared_state.store import Store

_LEVEL: Final = 1
#: No record unpacks to more: what lies in Redis is bounded when it is read, too.
MOST_BYTES: Final = 1 << 20


def pack(record: bytes) -> bytes:
    """A record as it is kept: JSON of the shape of a decision is mostly names, and comes down to a fourth."""
    return zlib.compress(record, _LEVEL)


async def write_decisions(store: Store, records: Sequence[tuple[str, bytes]], *, ttl_s: float) -> None:
    """Keeps packed records by request id, in one round trip; a later request of the same id takes the place of the first.

    Raises:
        RedisError, OSError, TimeoutError: the store is away or slow; some may have been kept.
    """
    pipe, life_ms = store.client.pipeline(transaction=False), max(1, round(ttl_s * 1000))
    for request_id, record in records:
        pipe.set(store.keys.request(request_id), record, px=life_ms)
    async with Deadline(store.timeout_s):
        await pipe.execute()
    obey_cancellation()


async def read_decision(store: Store, request_id: str) -> bytes | None:
    """The record of a request; None if there is none any more, or never was.

    Raises:
        RedisError, OSError, TimeoutError: the store is away.
    """
    packed: bytes | None = await store.command("GET", store.keys.request(request_id))
    return None if packed is None else zlib.decompressobj().decompress(packed, MOST_BYTES)
