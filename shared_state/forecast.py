"""When a quota runs dry, from what is left of it, how it fills again, and the rate at which it is used. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

#: A calendar quota is followed over this many of its resets; what lasts so long is said to last.
_RESETS_FOLLOWED: Final = 3


@dataclass(frozen=True, slots=True)
class Tank:
    """A quota at one moment.

    Attributes:
        left: what can still be taken now.
        size: what can be taken when it is full.
        period_s: in which its whole size can be taken again and again.
        reset_s: when it is full again, all at once; None if it fills steadily, as a sliding window does.
        inflow: what comes back per second during the first period, of one that fills steadily; afterwards it is what was
            taken in it, at most ``size / period_s``.
    """

    left: float
    size: float
    period_s: float
    reset_s: float | None = None
    inflow: float = 0.0

    @property
    def steady(self) -> float:
        """What comes back per second in the long run, of one that fills steadily."""
        return self.size / self.period_s if self.reset_s is None else 0.0


def runs_dry_in(tanks: Sequence[Tank], rate: float) -> float:
    """Seconds until nothing is left in any of the tanks; infinity if they last.

    The demand of ``rate`` per second is met by all of them together, from each in proportion to what it holds. For a single tank
    this is exact, given a steady rate and a sliding window that was filled evenly.
    """
    stock = [tank.left for tank in tanks]
    if sum(stock) <= 0:
        return 0.0
    if rate <= 0 or rate <= sum(tank.steady for tank in tanks):
        return math.inf
    inflows = [tank.inflow if tank.reset_s is None else 0.0 for tank in tanks]
    now_s = 0.0
    for at_s, place in _turns(tanks):
        dry_s = _empty_after(stock, rate - sum(inflows))
        if now_s + dry_s < at_s:
            return now_s + dry_s
        stock = _flow(tanks, stock, (rate - sum(inflows)) * (at_s - now_s))
        now_s = at_s
        if tanks[place].reset_s is None:
            inflows[place] = tanks[place].steady
        else:
            stock[place] = tanks[place].size
    if any(tank.reset_s is not None for tank in tanks):
        return math.inf
    return now_s + _empty_after(stock, rate - sum(inflows))


def _turns(tanks: Sequence[Tank]) -> list[tuple[float, int]]:
    """When something changes, and in which tank: its reset, or the end of the period that what comes back was taken in."""
    turns = []
    for place, tank in enumerate(tanks):
        if tank.reset_s is None:
            turns.append((tank.period_s, place))
        else:
            turns += [(tank.reset_s + n * tank.period_s, place) for n in range(_RESETS_FOLLOWED)]
    return sorted(turns)


def _empty_after(stock: Sequence[float], net_rate: float) -> float:
    return sum(stock) / net_rate if net_rate > 0 else math.inf


def _flow(tanks: Sequence[Tank], stock: Sequence[float], amount: float) -> list[float]:
    """The stock after so much was taken, or (negative) came back to those that fill steadily."""
    if amount >= 0:
        whole = sum(stock)
        share = max(0.0, 1 - amount / whole) if whole > 0 else 0.0
        return [held * share for held in stock]
    room = [
        tank.size - held if tank.reset_s is None else 0.0 for tank, held in zip(tanks, stock, strict=True)
    ]
    share = min(1.0, -amount / sum(room)) if sum(room) > 0 else 0.0
    return [held + free * share for held, free in zip(stock, room, strict=True)]
