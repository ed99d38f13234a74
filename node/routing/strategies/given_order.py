"""The order in which the candidates come: that of a dynamic pool's score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from node.routing.strategies.base import Hints
from shared_state.scores import SCORE_STRATEGY
from shared_state.topology import ModelSpec


class GivenOrder:
    """The pipeline has ranked the members before their states were looked at."""

    id: ClassVar[str] = SCORE_STRATEGY
    needs_turn: ClassVar[bool] = False
    moves_current: ClassVar[bool] = False

    def rank(self, candidates: Sequence[ModelSpec], hints: Hints) -> list[ModelSpec]:
        """As they came."""
        return list(candidates)
