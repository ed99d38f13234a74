"""What a soak has seen: every series with its slope, and the verdicts on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.slopes import Slope, Tolerance, slope_of

#: What a series may grow by without being called rising.
TOLERANCES: Final = {
    "RSS MB": Tolerance(2.0, share=0.03),
    "PSS MB": Tolerance(2.0, share=0.03),
    "descriptors": Tolerance(8.0, share=0.05),
    "threads": Tolerance(1.0),
    "tasks": Tolerance(8.0, share=0.05),
    "in flight": Tolerance(4.0, share=0.1),
    "unsettled": Tolerance(4.0),
    "connections": Tolerance(8.0, share=0.05),
    "books' drift": Tolerance(4.0),
}


@dataclass(slots=True)
class Soak:
    """What was seen.

    Attributes:
        series: process, what, then (seconds, value) pairs.
        slopes: of each series after the warm-up.
        rising: series that grow.
        left: what nodes hold more after the load than before.
        wrong: what else must not be.
    """

    setting: dict[str, Any]
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    slopes: dict[str, Slope] = field(default_factory=dict)
    rising: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)

    @property
    def is_well(self) -> bool:
        return not (self.rising or self.left or self.wrong)

    def note(self, at_s: float, found: Mapping[str, float]) -> None:
        """Takes in one sample of everything."""
        for name, value in found.items():
            self.series.setdefault(name, []).append((round(at_s, 1), round(value, 3)))

    def judge(self, *, warm_up_s: float) -> None:
        """The verdicts on all series, from what came after the warm-up."""
        for name, points in self.series.items():
            kept = [point for point in points if point[0] >= warm_up_s]
            if len(kept) < 3:
                continue
            slope = self.slopes[name] = slope_of([at for at, _ in kept], [value for _, value in kept])
            if not TOLERANCES[name.partition(": ")[2]].forgives(slope):
                self.rising.append(name)
