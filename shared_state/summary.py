"""Minute statistics summed up: counts, money, and latencies read off their buckets. Pure functions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from shared_state.statistics import LATENCY_BOUNDS_MS, MinuteRow


@dataclass(frozen=True, slots=True)
class Summary:
    """Sums of some rows, with the names that the settle script gave them; a metric that nobody counted is 0."""

    metrics: Mapping[str, int]

    def __getitem__(self, metric: str) -> int:
        return self.metrics.get(metric, 0)

    def mean_ms(self, metric: str) -> float | None:
        """Mean of a time over the attempts that went well; None if none did."""
        return self[metric] / self["ok"] if self["ok"] else None

    def latency_ms(self, part: float) -> float | None:
        """The latency that this part of the successes did not exceed, to the nearest that the buckets tell.

        Within a bucket latencies are taken to be spread evenly; of the last one, which is open, only its beginning is known.
        """
        counts = [self[f"latency_le_{i}"] for i in range(1, len(LATENCY_BOUNDS_MS) + 2)]
        wanted, seen, low = part * sum(counts), 0, 0
        if not sum(counts):
            return None
        for count, high in zip(counts, LATENCY_BOUNDS_MS, strict=False):
            if count and seen + count >= wanted:
                return low + (high - low) * max(0.0, wanted - seen) / count
            seen, low = seen + count, high
        return float(low)


def summarise(
    rows: Iterable[MinuteRow], key: Callable[[MinuteRow], str | int] | None = None
) -> dict[str | int, Summary]:
    """Sums by a key of the rows, in the key's order; without one all of them under the empty name."""
    sums: defaultdict[str | int, Counter[str]] = defaultdict(Counter)
    for row in rows:
        sums[key(row) if key else ""].update(row.metrics)
    return {name: Summary(sums[name]) for name in sorted(sums, key=str)}
