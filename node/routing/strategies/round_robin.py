"""Each request takes the next model of the pool, evenly over the whole fleet, or by weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from node.routing.strategies.base import Hints, Need, Request, Strategy, options_of
from node.routing.strategies.shares import by_shares
from shared_state.config.pools import PoolConfig
from shared_state.config.strategies import WeightOptions
from shared_state.topology import ModelSpec


class RoundRobin(Strategy):
    """The turn is a number of the cluster, so N nodes go round together."""

    id: ClassVar[str] = "modelmesh.round-robin.v1"
    needs = frozenset({Need.TURN})

    def __init__(self, options: WeightOptions | None = None) -> None:
        self._weights = options.weights if options else {}

    @classmethod
    def create(cls, pool: PoolConfig, build: Callable[[str], Strategy]) -> Strategy:
        """With the pool's weights."""
        return cls(options_of(pool, cls.id, WeightOptions))

    def rank(self, candidates: Sequence[ModelSpec], request: Request, hints: Hints) -> list[ModelSpec]:
        """Rotates the candidates; a model on standby leaves no gap."""
        if not candidates:
            return []
        if self._weights:
            return by_shares(candidates, self._weights, hints.turn)
        start = hints.turn % len(candidates)
        return [*candidates[start:], *candidates[:start]]
