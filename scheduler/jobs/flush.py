"""Carries closed minutes of statistics from Redis to the sink, each exactly once.

A closed minute does not change any more. It is stored under its own key (domain, minute, model, pool) with absolute values,
and only then let go: whatever is done twice, after a crash or by a leader that slept, comes to the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from scheduler.contact import read_server_time_s
from scheduler.sinks.base import Sink
from scheduler.sinks.statistics import StatisticsFeed
from shared_state.directory import Directory
from shared_state.logs import get_logger
from shared_state.statistics import MinuteRow, close_minutes, forget_minute, read_minute
from shared_state.store import Store

log = get_logger(__name__)

#: A minute is left alone for this long after its end, in case a promoted replica's clock is a little behind.
GRACE_S: Final = 2.0
_MINUTES_AT_ONCE: Final = 30


class Flush:
    """Moves closed minutes of all quota domains.

    Args:
        feed: is told what was stored.
    """

    def __init__(
        self, store: Store, domains: Directory, sink: Sink, *, feed: StatisticsFeed | None = None
    ) -> None:
        self._store = store
        self._domains = domains
        self._sink = sink
        self._feed = feed

    async def run(self, _token: int) -> None:
        """Moves every closed minute. Needs no fence, for its effect is the same however often it happens.

        Raises:
            SinkError: the sink refuses; what it did not take stays in Redis.
            RedisError, OSError, TimeoutError: the store is away.
        """
        current = await self._current_minute()
        for domain in await self._domains.ids():
            await self._carry(domain, current)

    async def carry(self, domain: str) -> None:
        """Moves the closed minutes of a domain that may not be configured any more.

        Raises:
            As `run`.
        """
        await self._carry(domain, await self._current_minute())

    async def _current_minute(self) -> int:
        return int((await read_server_time_s(self._store) - GRACE_S) // 60)

    async def _carry(self, domain: str, current: int) -> None:
        closed = await close_minutes(self._store, domain, before=current)
        for start in range(0, len(closed), _MINUTES_AT_ONCE):
            await self._move(domain, closed[start : start + _MINUTES_AT_ONCE])

    async def _move(self, domain: str, minutes: Sequence[int]) -> None:
        rows: list[MinuteRow] = []
        for minute in minutes:
            rows += await read_minute(self._store, domain, minute)
        if rows:
            await self._sink.write(rows)
            if self._feed is not None:
                await self._feed.tell(rows)
        for minute in minutes:
            await forget_minute(self._store, domain, minute)
        log.debug("statistics flushed", domain=domain, minutes=len(minutes), rows=len(rows))
