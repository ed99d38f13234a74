"""Whether a series of samples rises: a robust slope, the range that it may be in, and a verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

#: Of the normal distribution: a steady series is taken for a rising one in less than one of 200 cases.
_Z: Final = 2.576
#: Pairs that a slope is taken of; a longer series is thinned out.
_SAMPLES_MAX: Final = 400


@dataclass(frozen=True, slots=True)
class Slope:
    """Theil-Sen: the median of the slopes between all pairs of samples.

    Attributes:
        per_hour: of the series.
        low, high: where it is with 99 % confidence, as far as the samples are independent.
        growth: what has come about over the series by it.
        least_growth: the same by its low end.
        median: of the values.
    """

    per_hour: float
    low: float
    high: float
    growth: float
    least_growth: float
    median: float


def slope_of(times_s: Sequence[float], values: Sequence[float]) -> Slope:
    """The slope of a series; at least three samples are needed."""
    step = math.ceil(len(values) / _SAMPLES_MAX)
    points = list(zip(times_s, values, strict=True))[::step]
    slopes = sorted((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2) if x2 > x1)
    middle, (low, high) = statistics.median(slopes), _range(slopes, len(points))
    span_s = points[-1][0] - points[0][0]
    return Slope(
        middle * 3600, low * 3600, high * 3600, middle * span_s, low * span_s, statistics.median(values)
    )


def _range(slopes: Sequence[float], samples: int) -> tuple[float, float]:
    """The confidence interval of the slope: so many pairs from the middle as Kendall's statistic may stray."""
    stray = _Z * math.sqrt(samples * (samples - 1) * (2 * samples + 5) / 18)
    low = max(0, math.floor((len(slopes) - stray) / 2))
    high = min(len(slopes) - 1, math.ceil((len(slopes) + stray) / 2))
    return slopes[low], slopes[high]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What a series may grow by over a run without being called rising: an amount, or a share of its median."""

    amount: float
    share: float = 0.0

    def forgives(self, slope: Slope) -> bool:
        """Whether the growth that is certain stays within it."""
        return slope.least_growth <= max(self.amount, self.share * abs(slope.median))
