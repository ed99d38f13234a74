"""The first active model of a list; the rest by another strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from node.routing.strategies.base import Hints, Request, Strategy, options_of
from shared_state.config.pools import PoolConfig
from shared_state.config.strategies import PriorityOptions
from shared_state.topology import ModelSpec


class PrioritySelection(Strategy):
    """A higher entry takes the traffic back as soon as it recovers.

    Args:
        fallback: ranks what no list names; None leaves it out.
    """

    id: ClassVar[str] = "modelmesh.priority-selection.v1"

    def __init__(self, options: PriorityOptions, fallback: Strategy | None) -> None:
        self._models = frozenset(options.model_priority)
        self._providers = frozenset(options.provider_priority)
        self._fallback = fallback
        self.needs = fallback.needs if fallback else frozenset()

    @classmethod
    def create(cls, pool: PoolConfig, build: Callable[[str], Strategy]) -> Strategy:
        """With the fallback strategy, which finds its own options in the same pool."""
        options = options_of(pool, cls.id, PriorityOptions)
        name = options.fallback_strategy
        return cls(options, None if name == "error" else build(name))

    def rank(self, candidates: Sequence[ModelSpec], request: Request, hints: Hints) -> list[ModelSpec]:
        """Listed models in the order of the lists, which is the pool's own, then the fallback's ranking."""
        places = {spec.id: place for place, spec in enumerate(hints.order)}
        listed = [s for s in candidates if s.id in self._models or s.provider in self._providers]
        listed.sort(key=lambda spec: places[spec.id])
        rest = [spec for spec in candidates if spec not in listed]
        if rest and self._fallback:
            listed += self._fallback.rank(rest, request, hints)
        return listed
