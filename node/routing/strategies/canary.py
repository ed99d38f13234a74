"""A fixed part of the traffic for models on trial; the others divide the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from node.routing.strategies.base import Hints, Need, Request, Strategy, options_of
from node.routing.strategies.shares import by_shares
from shared_state.config.pools import PoolConfig
from shared_state.config.strategies import WeightOptions
from shared_state.topology import ModelSpec


class Canary(Strategy):
    """A canary's part does not depend on how many others there are, or on how many of them are active."""

    id: ClassVar[str] = "modelmesh.canary.v1"
    needs = frozenset({Need.TURN})

    def __init__(self, options: WeightOptions) -> None:
        self._parts = options.weights

    @classmethod
    def create(cls, pool: PoolConfig, build: Callable[[str], Strategy]) -> Strategy:
        """With the parts of the canaries."""
        return cls(options_of(pool, cls.id, WeightOptions))

    def rank(self, candidates: Sequence[ModelSpec], request: Request, hints: Hints) -> list[ModelSpec]:
        """By parts. A failed request of a canary goes to the others first, and theirs to a canary last."""
        if not candidates:
            return []
        rest = [spec for spec in candidates if spec.id not in self._parts]
        parts = [self._parts.get(spec.id, 0.0) for spec in candidates]
        each = max(0.0, 1.0 - sum(parts)) / len(rest) if rest else 0.0
        first, *others = by_shares(candidates, self._parts, hints.turn, usual=each)
        return [first, *sorted(others, key=lambda spec: spec.id in self._parts)]
