"""The retries that all nodes together may make: what one node has sent is booked, and its part of the rest comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shared_state.store import Argument, Store

#: Over so many seconds retries are counted against requests; ``share_retries.lua`` has the same number.
WINDOW_S: Final = 10
#: How long a part may be spent without a report.
PART_LIFE_S: Final = 2.5


@dataclass(frozen=True, slots=True)
class Sent:
    """What a node has sent since its last report; booked once, however often it is reported."""

    sequence: int
    requests: int
    retries: int


async def share_retries(
    store: Store, pool: str, sent: Sent, *, node: str, share: float, floor: float, nodes: int
) -> int:
    """Reports, and takes the node's part of what the fleet may still retry in this pool.

    Raises:
        RedisError, OSError, TimeoutError: the store is away; report the same again.
    """
    life_ms = round(PART_LIFE_S * 1000)
    args: list[Argument] = [
        node,
        sent.sequence,
        sent.requests,
        sent.retries,
        repr(share),
        repr(floor),
        max(1, nodes),
        life_ms,
    ]
    part: int = await store.run("share_retries", [store.keys.retries(pool)], args)
    return part
