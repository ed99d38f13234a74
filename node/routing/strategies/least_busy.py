"""The model with the fewest attempts under way, counted over all nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from node.routing.strategies.base import Hints, Need, Request, Strategy
from shared_state.topology import ModelSpec


class LeastBusy(Strategy):
    """Equally busy models take turns, so that a quiet pool does not lean on its first member."""

    id: ClassVar[str] = "modelmesh.least-busy.v1"
    needs = frozenset({Need.SIGNALS, Need.TURN})

    def rank(self, candidates: Sequence[ModelSpec], request: Request, hints: Hints) -> list[ModelSpec]:
        """Fewest in flight first."""
        start = hints.turn % len(candidates) if candidates else 0
        turned = [*candidates[start:], *candidates[:start]]
        return sorted(turned, key=lambda spec: hints.signal(spec).in_flight)
