"""Keep the current model while it is active; when it leaves, take the next in pool order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from node.routing.strategies.base import Hints, Need, Request, Strategy
from shared_state.topology import ModelSpec


class StickUntilFailure(Strategy):
    """One pointer for the whole cluster; a model that recovers does not take the traffic back."""

    id: ClassVar[str] = "modelmesh.stick-until-failure.v1"
    needs = frozenset({Need.POINTER})

    def rank(self, candidates: Sequence[ModelSpec], request: Request, hints: Hints) -> list[ModelSpec]:
        """The current model, then the others in pool order from there on, around the end."""
        if len(candidates) < 2:
            return list(candidates)
        places = {spec.id: place for place, spec in enumerate(hints.order)}
        start = places.get(hints.current, 0)
        return sorted(candidates, key=lambda spec: (places[spec.id] - start) % len(places))
