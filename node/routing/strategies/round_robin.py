"""Each request takes the next model of the pool, evenly over the whole fleet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from node.routing.strategies.base import Hints
from shared_state.topology import ModelSpec


class RoundRobin:
    """The turn is a number of the cluster, so N nodes go round together."""

    id: ClassVar[str] = "modelmesh.round-robin.v1"
    needs_turn: ClassVar[bool] = True
    moves_current: ClassVar[bool] = False

    def rank(self, candidates: Sequence[ModelSpec], hints: Hints) -> list[ModelSpec]:
        """Rotates the candidates; a model on standby leaves no gap."""
        if not candidates:
            return []
        start = hints.turn % len(candidates)
        return [*candidates[start:], *candidates[:start]]
