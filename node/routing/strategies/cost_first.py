"""The model on which this very request is expected to cost least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from node.providers.usage import Usage, cost_nano
from node.routing.strategies.base import Hints, Need, Request, Strategy
from shared_state.topology import ModelSpec


class CostFirst(Strategy):
    """Long prompts and long answers may have different cheapest models.

    What a session said before is priced as cached where its model has a price for that.
    """

    id: ClassVar[str] = "modelmesh.cost-first.v1"
    needs = frozenset({Need.SESSION})

    def rank(self, candidates: Sequence[ModelSpec], request: Request, hints: Hints) -> list[ModelSpec]:
        """By price, ties in the order of the candidates; a model without a price comes last."""
        return sorted(candidates, key=lambda spec: _price(spec, request, hints.held))


def _price(spec: ModelSpec, request: Request, held: str) -> tuple[bool, int]:
    if "pricing" not in spec.config.model_fields_set:
        return True, 0
    known = request.tokens_known if spec.id == held else 0
    return False, cost_nano(Usage(request.tokens_in, request.tokens_out, known), spec.config.pricing)
