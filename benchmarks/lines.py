"""Costs of calls as straight lines, fitted to what was measured. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """Cost of a call: ``fixed_us + each_us * entries``."""

    fixed_us: float
    each_us: float

    def at(self, entries: float) -> float:
        """The cost of a call with so many entries."""
        return self.fixed_us + self.each_us * entries


@dataclass(frozen=True, slots=True)
class Exchange:
    """Cost of an exchange.

    Attributes:
        call_us: of any exchange.
        asking_us, settling_us: what is added once if there are asks, or settlements.
        ask_us, settlement_us: of each.
    """

    call_us: float
    asking_us: float
    settling_us: float
    ask_us: float
    settlement_us: float

    def fixed_us(self, asks: float, settlements: float) -> float:
        """The part that does not grow with the number of entries."""
        return self.call_us + self.asking_us * (asks > 0) + self.settling_us * (settlements > 0)

    def at(self, asks: float, settlements: float) -> float:
        """The cost of a call with so many of both."""
        entries_us = self.ask_us * asks + self.settlement_us * settlements
        return self.fixed_us(asks, settlements) + entries_us


def fit(points: Sequence[tuple[float, float]]) -> Line:
    """The line through (entries, cost) that errs least in proportion; where all have as many entries there is no slope."""
    if len({entries for entries, _ in points}) == 1:
        rows: list[tuple[float, ...]] = [(1.0,) for _ in points]
        return Line(least_squares(rows, [cost for _, cost in points])[0], 0.0)
    return Line(*least_squares([(1.0, entries) for entries, _ in points], [cost for _, cost in points]))


def fit_exchange(points: Sequence[tuple[int, int, float]]) -> Exchange:
    """The same for (asks, settlements, cost)."""
    rows = [(1.0, float(asks > 0), float(ended > 0), float(asks), float(ended)) for asks, ended, _ in points]
    return Exchange(*least_squares(rows, [cost for *_, cost in points]))


def least_squares(rows: Sequence[Sequence[float]], costs: Sequence[float]) -> list[float]:
    """The factors whose sums of products with each row are, in proportion, nearest to its cost. Normal equations, solved by elimination."""
    weighted = [[value / cost for value in row] for row, cost in zip(rows, costs, strict=True)]
    size = len(weighted[0])
    lines = [
        [sum(row[i] * row[j] for row in weighted) for j in range(size)] + [sum(row[i] for row in weighted)]
        for i in range(size)
    ]
    for i in range(size):
        pivot = max(range(i, size), key=lambda k: abs(lines[k][i]))
        lines[i], lines[pivot] = lines[pivot], lines[i]
        lines[i] = [value / lines[i][i] for value in lines[i]]
        for k in range(size):
            if k != i:
                lines[k] = [a - lines[k][i] * b for a, b in zip(lines[k], lines[i], strict=True)]
    return [line[size] for line in lines]
