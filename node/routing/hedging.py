"""When a second attempt is worth its price: the first is slower than nearly all of its model's, and the pool's share allows one more."""

from __future__ import annotations

from typing import Final

from node.call import Target
from node.routing.pipeline import Plan
from node.routing.slowness import Slowness
from shared_state.config.pools import HedgeConfig
from shared_state.ledger import How

_MOST_CREDIT: Final = 5.0


class Hedging:
    """The hedges of one node: each request of a pool earns a share of one."""

    def __init__(self, slowness: Slowness) -> None:
        self._slowness = slowness
        self._credit: dict[str, float] = {}
        self.made: dict[str, int] = {}

    def note(self, target: Target, reservation: str, seconds: float) -> None:
        """A model has answered, or was given up after so long."""
        if target.pool.config.hedge is not None:
            self._slowness.note(target.model.id, reservation, seconds)

    def delay_s(self, target: Target, rules: HedgeConfig) -> float | None:
        """How long to wait for the first content before a second attempt; None for ever. Counts the request."""
        pool = target.pool.id
        self._credit[pool] = min(_MOST_CREDIT, self._credit.get(pool, 0.0) + rules.max_share)
        if rules.after != "p95":
            return rules.after
        return self._slowness.p95(target.model.id)

    def may_begin(self, target: Target) -> bool:
        """Whether the pool's share allows a hedge now."""
        return self._credit.get(target.pool.id, 0.0) >= 1.0

    def begin(self, target: Target) -> None:
        """A hedge is made."""
        pool = target.pool.id
        self._credit[pool] -= 1.0
        self.made[pool] = self.made.get(pool, 0) + 1


def is_ordinary(plan: Plan, target: Target) -> bool:
    """Whether a target neither needs a trial nor recovers, nor is asked although it is ill."""
    return target.how is How.NORMAL and not any(other is target for other in (*plan.trials, *plan.reserve))
