"""The retries that all nodes together may make: what one node has sent is booked, and its part of the rest comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shared_state.config.pools import RetryBudgetConfig
from shared_state.store import Argument, Store

#: Over so many seconds retries are counted against requests; ``share_retries.lua`` has the same number.
WINDOW_S: Final = 10
#: How long a part may be spent without a report.
PART_LIFE_S: Final = 2.5
#: This part of the floor needs no good answer to pay for it: a system that has just started, or hardly works, retries all the same.
_UNPAID: Final = 0.2


@dataclass(frozen=True, slots=True)
class Sent:
    """What a node has sent since its last report; booked once, however often it is reported.

    Attributes:
        good: requests that were answered well.
        kept: how much of its part the node may be spending meanwhile; None: it wants none any more.
    """

    sequence: int
    requests: int
    retries: int
    good: int = 0
    kept: int | None = 0


def unpaid(rules: RetryBudgetConfig) -> float:
    """Retries in a window that need neither many requests nor good answers."""
    return rules.floor * WINDOW_S * _UNPAID


def allowed(rules: RetryBudgetConfig, *, requests: int, good: int) -> float:
    """Most retries in a window that has seen so much; the script has the same rule."""
    return max(rules.share * requests, min(rules.floor * WINDOW_S, unpaid(rules) + good))


async def share_retries(
    store: Store, pool: str, sent: Sent, *, node: str, rules: RetryBudgetConfig, nodes: int
) -> int:
    """Reports, and takes the node's part of what the fleet may still retry in this pool.

    Raises:
        RedisError, OSError, TimeoutError: the store is away; report the same again.
    """
    args: list[Argument] = [
        node,
        sent.sequence,
        sent.requests,
        sent.retries,
        sent.good,
        -1 if sent.kept is None else sent.kept,
        repr(rules.share),
        repr(rules.floor),
        repr(unpaid(rules)),
        max(1, nodes),
        round(PART_LIFE_S * 1000),
    ]
    part: int = await store.run("share_retries", [store.keys.retries(pool)], args)
    return part
