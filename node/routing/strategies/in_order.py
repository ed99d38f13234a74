"""What pools with a score use: their candidates arrive in order."""

from __future__ import annotations

from collections.abc import Sequence

from node.routing.strategies.base import Hints, Request, Strategy
from shared_state.topology import ModelSpec


class InOrder(Strategy):
    """Leaves the order as it is."""

    def rank(self, candidates: Sequence[ModelSpec], request: Request, hints: Hints) -> list[ModelSpec]:
        """The candidates as they come."""
        return list(candidates)
