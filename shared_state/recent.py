"""The last hour of minute statistics, stored durably or not: what reports and rates are made of. What is older the scheduler's sink has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shared_state.deadline import Deadline
from shared_state.statistics import KEPT_S, MinuteRow, decode_minute
from shared_state.store import Store

#: So far back minutes can be asked for.
KEPT_MINUTES: Final = KEPT_S // 60
_MINUTES_AT_ONCE: Final = 10


@dataclass(frozen=True, slots=True)
class Recent:
    """Minutes up to and including the running one.

    Attributes:
        now_s: server time.
        first_minute: the oldest that was asked for.
    """

    now_s: float
    first_minute: int
    rows: tuple[MinuteRow, ...]


async def read_recent(store: Store, domains: Iterable[str], *, minutes: int) -> Recent:
    """The running minute and those before it, ``minutes`` in all; at most ``KEPT_MINUTES``.

    Raises:
        RedisError, OSError, TimeoutError: the store is away.
    """
    seconds, micros = await store.command("TIME")
    now_s = int(seconds) + int(micros) / 1e6
    last = int(seconds) // 60
    first = last - min(minutes, KEPT_MINUTES) + 1
    rows: list[MinuteRow] = []
    for domain in domains:
        for start in range(first, last + 1, _MINUTES_AT_ONCE):
            rows += await _read(store, domain, range(start, min(start + _MINUTES_AT_ONCE, last + 1)))
    return Recent(now_s, first, tuple(rows))


async def _read(store: Store, domain: str, minutes: range) -> list[MinuteRow]:
    pipe = store.client.pipeline(transaction=False)
    for minute in minutes:
        pipe.hgetall(store.keys.statistics(domain, minute))
    async with Deadline(store.timeout_s):
        found = await pipe.execute()
    return [
        row for minute, raw in zip(minutes, found, strict=True) for row in decode_minute(domain, minute, raw)
    ]
