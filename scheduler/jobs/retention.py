"""Lets old minutes leave the durable storage."""

from __future__ import annotations

from scheduler.contact import read_server_time_s
from scheduler.sinks.base import Sink
from shared_state.store import Store


class Retention:
    """Removes minutes that are older than ``kept_s``; doing it twice is as good as once, so it needs no fence."""

    def __init__(self, store: Store, sink: Sink, *, kept_s: float) -> None:
        self._store = store
        self._sink = sink
        self._kept_s = kept_s

    async def run(self, _token: int) -> None:
        """Removes what is too old by the store's clock.

        Raises:
            SinkError: the storage refuses.
            RedisError, OSError, TimeoutError: the store is away.
        """
        await self._sink.prune(await read_server_time_s(self._store) - self._kept_s)
