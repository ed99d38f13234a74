"""What a selection strategy is: a pure order over candidates, fed by what the cluster shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from shared_state.topology import ModelSpec


@dataclass(frozen=True, slots=True)
class Hints:
    """Shared facts that a strategy may need.

    Attributes:
        order: all members of the pool, in pool order.
        turn: this request's number in the pool's cluster-wide sequence.
        current: the model that the pool points at, empty for none.
    """

    order: Sequence[ModelSpec]
    turn: int = 0
    current: str = ""


class Strategy(Protocol):
    """Ranks candidates, best first; the rest is the fallback chain."""

    id: ClassVar[str]
    needs_turn: ClassVar[bool]
    moves_current: ClassVar[bool]

    def rank(self, candidates: Sequence[ModelSpec], hints: Hints) -> list[ModelSpec]:
        """All candidates, best first. Pure: the same arguments give the same order."""
