"""Traffic in proportion: to fixed weights, or to the room that limits leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import ClassVar

from node.routing.strategies.base import Hints, Need, Request, Signal, Strategy, options_of
from node.routing.strategies.shares import by_shares, even_draw
from shared_state.config.pools import PoolConfig
from shared_state.config.strategies import BalanceOptions
from shared_state.topology import ModelSpec


class LoadBalanced(Strategy):
    """Weights are exact over the fleet; room is a moving target, followed turn by turn without a run on one model."""

    id: ClassVar[str] = "modelmesh.load-balanced.v1"

    def __init__(self, options: BalanceOptions) -> None:
        self._weights = options.weights
        self._mode = options.balance_mode
        self.needs = frozenset({Need.TURN} if self._weights else {Need.TURN, Need.SIGNALS})

    @classmethod
    def create(cls, pool: PoolConfig, build: Callable[[str], Strategy]) -> Strategy:
        """With weights, or one of the two modes."""
        return cls(options_of(pool, cls.id, BalanceOptions))

    def rank(self, candidates: Sequence[ModelSpec], request: Request, hints: Hints) -> list[ModelSpec]:
        """The model that this turn falls to, then the others, those with the most room first."""
        if not candidates:
            return []
        if self._weights:
            return by_shares(candidates, self._weights, hints.turn)
        rooms = self._rooms([hints.signal(spec) for spec in candidates])
        first = _fall(rooms, even_draw(hints.turn))
        places = sorted(range(len(candidates)), key=lambda place: (place != first, -rooms[place]))
        return [candidates[place] for place in places]

    def _rooms(self, signals: Sequence[Signal]) -> list[float]:
        """The room of each; where nothing is known, the median of the others."""
        rooms = [s.requests_left if self._mode == "absolute" else s.headroom for s in signals]
        known = [room for room in rooms if room is not None]
        usual = median(known) if known else 1.0
        return [max(0.0, usual if room is None else room) for room in rooms]


def _fall(rooms: Sequence[float], draw: float) -> int:
    """Into which of the rooms, laid side by side, a number in [0, 1) falls."""
    total = sum(rooms)
    if total <= 0:
        return int(draw * len(rooms))
    at = draw * total
    for place, room in enumerate(rooms):
        at -= room
        if at < 0:
            return place
    return max(range(len(rooms)), key=rooms.__getitem__)
