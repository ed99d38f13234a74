"""Fixed shares of the traffic as a function of the turn alone, so that N nodes that draw turns from one counter keep them together.

Smooth weighted round robin, laid out once for a set of weights: each model's turns are spread over the period as evenly as whole numbers
allow, so any stretch of turns, and hence any node's block of them, holds about its share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import gcd
from typing import Final

from shared_state.topology import ModelSpec

#: Longest period: shares are kept to this precision.
_FINEST: Final = 1000
#: Steps of this sequence fall evenly into [0, 1), however many there are.
_GOLDEN: Final = 0x9E3779B97F4A7C15


def by_shares(
    candidates: Sequence[ModelSpec], weight_of: Mapping[str, float], turn: int, *, usual: float = 1.0
) -> list[ModelSpec]:
    """The model whose turn it is, then the others, the heaviest first; a weight of 0 has no turns.

    Args:
        usual: weight of a model that has none of its own.
    """
    weights = [weight_of.get(spec.id, usual) for spec in candidates]
    period = _period(tuple(weights))
    first = period[turn % len(period)]
    others = sorted(range(len(candidates)), key=lambda place: (place != first, -weights[place]))
    return [candidates[place] for place in others]


def even_draw(turn: int) -> float:
    """A number in [0, 1) for each turn; those of successive turns lie far apart and leave no gap."""
    return (turn * _GOLDEN % (1 << 64)) / (1 << 64)


@lru_cache(maxsize=1024)
def _period(weights: tuple[float, ...]) -> tuple[int, ...]:
    """Places in the order of their turns."""
    wholes = _wholes(weights)
    total, credit, period = sum(wholes), [0] * len(wholes), []
    for _ in range(total):
        credit = [have + weight for have, weight in zip(credit, wholes, strict=True)]
        best = max(range(len(credit)), key=lambda place: (credit[place], -place))
        credit[best] -= total
        period.append(best)
    return tuple(period)


def _wholes(weights: tuple[float, ...]) -> list[int]:
    """The weights as whole numbers; whoever has a weight has at least one turn in the period."""
    total = sum(weights)
    if total <= 0:
        return [1] * len(weights)
    if all(weight == int(weight) for weight in weights) and total <= _FINEST:
        wholes = [int(weight) for weight in weights]
    else:
        wholes = [max(1, round(weight / total * _FINEST)) if weight > 0 else 0 for weight in weights]
    common = gcd(*wholes)
    return [whole // common for whole in wholes]
