"""Keep to the preferred model until it nears a limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from node.routing.strategies.base import Hints, Need, Request, Strategy
from shared_state.config.pools import PoolConfig
from shared_state.config.strategies import RateLimitConfig
from shared_state.topology import ModelSpec


class RateLimitAware(Strategy):
    """Pool order as long as less than the threshold of a model's tightest limit is used; nobody is put on standby for it.

    What `delay_request` and `queue` do instead of switching happens before a request is ranked (``node/routing/waiting.py``).
    """

    id: ClassVar[str] = "modelmesh.rate-limit-aware.v1"
    needs = frozenset({Need.SIGNALS})

    def __init__(self, rules: RateLimitConfig | None = None) -> None:
        self._rules = rules or RateLimitConfig()

    @classmethod
    def create(cls, pool: PoolConfig, build: Callable[[str], Strategy]) -> Strategy:
        """With the pool's rules, or their defaults."""
        return cls(pool.rate_limit)

    def rank(self, candidates: Sequence[ModelSpec], request: Request, hints: Hints) -> list[ModelSpec]:
        """Those below the threshold in pool order, then those above it, the one with the most room first."""
        return away_from_limits(candidates, self._rules, hints)


def is_near_limit(spec: ModelSpec, rules: RateLimitConfig, hints: Hints) -> bool:
    """Whether a model has used its threshold; where nothing is known, it has not."""
    headroom = hints.signal(spec).headroom
    return headroom is not None and 1.0 - headroom >= rules.threshold


def away_from_limits(ranked: Sequence[ModelSpec], rules: RateLimitConfig, hints: Hints) -> list[ModelSpec]:
    """A ranking with the models near a limit at its end."""
    near = [spec for spec in ranked if is_near_limit(spec, rules, hints)]
    near.sort(key=lambda spec: hints.signal(spec).headroom or 0.0, reverse=True)
    return [*(spec for spec in ranked if not is_near_limit(spec, rules, hints)), *near]
