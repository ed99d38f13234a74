"""Of two models drawn by chance the one that would answer sooner."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import ClassVar

from node.routing.strategies.base import Hints, Need, Request, Strategy
from shared_state.topology import ModelSpec


class PowerOfTwo(Strategy):
    """Sooner: peak response time, times the attempts that would be under way. Nodes with the same view still choose differently, so
    a fast model is never overrun by all of them at once.
    """

    id: ClassVar[str] = "modelmesh.power-of-two.v1"
    needs = frozenset({Need.SIGNALS})

    def rank(self, candidates: Sequence[ModelSpec], request: Request, hints: Hints) -> list[ModelSpec]:
        """The better of the pair, the other, then the rest by the same measure."""
        signals = [hints.signal(spec) for spec in candidates]
        known = [signal.peak_ms for signal in signals if signal.peak_ms is not None]
        usual = median(known) if known else 1.0
        loads = [
            (usual if signal.peak_ms is None else signal.peak_ms) * (signal.in_flight + 1)
            for signal in signals
        ]
        pair = _pair(len(candidates), hints.draw)
        places = sorted(range(len(candidates)), key=lambda place: (place not in pair, loads[place]))
        return [candidates[place] for place in places]


def _pair(count: int, draw: float) -> tuple[int, ...]:
    """Two different places; each pair is as likely as any other."""
    if count < 2:
        return tuple(range(count))
    first, second = divmod(min(int(draw * count * (count - 1)), count * (count - 1) - 1), count - 1)
    return first, second + (second >= first)
