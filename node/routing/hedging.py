"""When a second attempt is worth its price: the first is slower than nearly all of its model's, and the pool's share allows one more."""

from __future__ import annotations

from collections import deque
from typing import Final

from node.call import Target
from node.routing.pipeline import Plan
from shared_state.config.pools import HedgeConfig
from shared_state.ledger import How

_REMEMBERED: Final = 200
#: Below that nobody knows what is unusual.
_FEWEST: Final = 20
_SHARE: Final = 0.95
_MOST_CREDIT: Final = 5.0


class Slowness:
    """How long a model of this node took to its first content, lately."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self._p95: float | None = None
        self._news = 0

    def note(self, seconds: float) -> None:
        """One more answer."""
        self._seconds.append(seconds)
        self._news += 1

    @property
    def p95(self) -> float | None:
        """What nineteen of twenty answers stayed below; None while too few are known."""
        if len(self._seconds) < _FEWEST:
            return None
        if self._p95 is None or self._news >= _FEWEST:
            self._news = 0
            self._p95 = sorted(self._seconds)[int(_SHARE * len(self._seconds))]
        return self._p95


class Hedging:
    """The hedges of one node: each request of a pool earns a share of one."""

    def __init__(self) -> None:
        self._slowness: dict[str, Slowness] = {}
        self._credit: dict[str, float] = {}
        self.made: dict[str, int] = {}

    def note(self, target: Target, seconds: float) -> None:
        """A model has answered, or was given up after so long."""
        if target.pool.config.hedge is not None:
            self._slowness.setdefault(target.model.id, Slowness()).note(seconds)

    def delay_s(self, target: Target, rules: HedgeConfig) -> float | None:
        """How long to wait for the first content before a second attempt; None for ever. Counts the request."""
        pool = target.pool.id
        self._credit[pool] = min(_MOST_CREDIT, self._credit.get(pool, 0.0) + rules.max_share)
        if rules.after != "p95":
            return rules.after
        known = self._slowness.get(target.model.id)
        return None if known is None else known.p95

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
