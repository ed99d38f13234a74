"""Minute statistics as the settle script leaves them: sums per model and pool, complete once the minute has passed.

A closed minute never changes again, so writing it twice with the same key changes nothing. It is owed to the durable store until it
was stored there, and stays readable here for an hour more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import ormsgpack

from shared_state.store import Store

#: Upper bounds (ms) of the latency buckets ``latency_le_1`` ...; the last bucket is open.
LATENCY_BOUNDS_MS: Final = (10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000)
#: How long a minute stays in Redis after it was stored durably.
KEPT_S: Final = 3600
METRICS: Final = (
    "attempts",
    "ok",
    "failed",
    "neutral",
    "abandoned",
    "estimated",
    "tokens_in",
    "tokens_out",
    "cost",
    "latency_ms",
    "first_token_ms",
)
#: Counted besides; a durable store keeps them as it keeps the latency buckets. ``limited``: failed attempts that met a limit or a spent quota.
FURTHER_METRICS: Final = ("limited",)
#: The numbers of a packed row, in the order of ``lua/include/bookkeeping.lua``.
_PACKED: Final = (
    *METRICS,
    *(f"latency_le_{i}" for i in range(1, len(LATENCY_BOUNDS_MS) + 2)),
    *FURTHER_METRICS,
)


@dataclass(slots=True, frozen=True)
class MinuteRow:
    """Sums of one minute for a model within a pool; cost in USD 1e-9, ``metrics`` as counted by the script."""

    domain: str
    model: str
    pool: str
    minute: int
    metrics: dict[str, int] = field(default_factory=dict)


async def minutes_of(store: Store, domain: str) -> list[int]:
    """Minutes of a domain whose statistics were not stored durably yet, oldest first."""
    return [int(raw) for raw in await store.command("ZRANGE", store.keys.minutes(domain), 0, -1)]


async def close_minutes(store: Store, domain: str, *, before: int) -> list[int]:
    """Closes all minutes before that one, for good; those that hold statistics, oldest first."""
    return [int(raw) for raw in await store.run("close_minutes", [store.keys.domain(domain)], [before])]


async def read_minute(store: Store, domain: str, minute: int) -> list[MinuteRow]:
    """All sums of a domain's minute."""
    raw = await store.command("HGETALL", store.keys.statistics(domain, minute))
    return decode_minute(domain, minute, raw)


def decode_minute(domain: str, minute: int, raw: Mapping[bytes, bytes]) -> list[MinuteRow]:
    """The sums in a minute's hash; what nobody counted is left out.

    A release before this one left a field for each metric: ``model TAB pool TAB metric``.
    """
    rows: dict[tuple[str, str], MinuteRow] = {}
    for name, value in raw.items():
        model, pool, *metric = name.decode().split("\t")
        row = rows.setdefault((model, pool), MinuteRow(domain, model, pool, minute))
        found = zip(metric or _PACKED, [int(value)] if metric else ormsgpack.unpackb(value), strict=False)
        for counted, amount in found:
            if amount:
                row.metrics[counted] = row.metrics.get(counted, 0) + amount
    return list(rows.values())


async def forget_minute(store: Store, domain: str, minute: int) -> None:
    """A closed minute was stored durably: from here on it only stays for readers, and goes by itself."""
    await store.run("forget_minute", [store.keys.domain(domain)], [minute, KEPT_S * 1000])
