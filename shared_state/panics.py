"""Panic of pools: told once for the cluster when it begins and when it is over, whichever nodes have found it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shared_state.cancellation import obey_cancellation
from shared_state.deadline import Deadline
from shared_state.gates import pool_gate
from shared_state.store import Store

#: A panic is over when this has lasted: longer than a node that has lost an event looks at the state by itself.
OVER_MS: Final = 1500
#: One that no node reports any more is forgotten.
KEPT_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class PanicReport:
    """What a node finds of a pool.

    Attributes:
        sequence: grows with each report of the node.
        asked: requests on faith since its last report; ``answered`` of them were.
    """

    sequence: int
    is_on: bool
    well: int
    members: int
    asked: int
    answered: int


@dataclass(frozen=True, slots=True)
class Panic:
    """A panic that lasts: since when (server ms), and what was asked on faith, as far as nodes have reported."""

    since_ms: int
    asked: int
    answered: int


async def note_panic(store: Store, pool: str, report: PanicReport, *, node: str) -> bool:
    """Reports; whether a panic lasts.

    Raises:
        RedisError, OSError, TimeoutError: the store is away; report the same again.
    """
    domain = pool_gate(pool)
    lasts: int = await store.run(
        "note_panic",
        [store.keys.domain(domain)],
        [
            *(domain, store.keys.channel, node, report.sequence, pool, int(report.is_on)),
            *(report.well, report.members, report.asked, report.answered, OVER_MS, KEPT_MS),
        ],
    )
    return lasts == 1


async def read_panics(store: Store, pools: Sequence[str]) -> dict[str, Panic]:
    """The panics that last among these pools, in one round trip.

    Raises:
        RedisError, OSError, TimeoutError: the store is away.
    """
    pipe = store.client.pipeline(transaction=False)
    for pool in pools:
        pipe.hmget(store.keys.panic(pool_gate(pool)), ["since", "asked", "answered"])
    async with Deadline(store.timeout_s):
        rows = await pipe.execute()
    obey_cancellation()
    return {pool: Panic(*map(int, row)) for pool, row in zip(pools, rows, strict=True) if row[0] is not None}
