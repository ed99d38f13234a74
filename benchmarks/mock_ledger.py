"""What the mock provider has seen: one entry per request, counters, and exact sliding windows."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

WINDOW_S = 60.0


@dataclass(slots=True)
class Entry:
    """One request, written when it had arrived in full and finished when its answer was over.

    Attributes:
        t_arrival: Unix time at which head and body were complete.
        t_end: Unix time at which the answer was over, None while it runs.
        completed: the whole answer went out, with its proper end.
        client_gone: the connection was lost, or given up by the other side, before the answer was over.
        auth: first 8 hex digits of the SHA-256 of the bearer token.
    """

    n: int
    t_arrival: float
    path: str
    model: str
    stream: bool
    status: int
    behaviour: str
    bytes_in: int
    request_id: str
    auth: str
    bytes_out: int = 0
    chunks: int = 0
    completed: bool = False
    client_gone: bool = False
    t_end: float | None = None


def sliding_maximum(times: Iterable[float], *, window_s: float = WINDOW_S) -> int:
    """The most events in any half-open interval of `window_s`."""
    window = SlidingMaximum(window_s)
    for t in sorted(times):
        window.add(t)
    return window.maximum


class SlidingMaximum:
    """The most events that any interval of `window_s` held; events come in the order of time."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self.maximum = 0
        self._window_s = window_s
        self._times: deque[float] = deque()

    def add(self, t: float) -> None:
        """Count an event at `t`."""
        times = self._times
        times.append(t)
        while times[0] <= t - self._window_s:
            times.popleft()
        self.maximum = max(self.maximum, len(times))


class SlidingLimit:
    """A provider's own limit: at most `limit` admissions in any interval of `window_s`."""

    def __init__(self, limit: int, *, window_s: float = WINDOW_S) -> None:
        self.limit = limit
        self._window_s = window_s
        self._times: deque[float] = deque()

    def admit(self, now: float) -> float:
        """0 when admitted, else the seconds until the next admission could succeed."""
        times = self._times
        while times and times[0] <= now - self._window_s:
            times.popleft()
        if len(times) >= self.limit:
            return times[0] + self._window_s - now
        times.append(now)
        return 0.0

    @property
    def remaining(self) -> int:
        """Admissions left at the time of the last call."""
        return max(0, self.limit - len(self._times))

    def clear(self) -> None:
        """Start an empty window."""
        self._times.clear()


class Ledger:
    """Entries of the newest requests (a bounded ring) and counters over all of them.

    Args:
        capacity: entries kept; 0 keeps none and no windows either, for benchmarks.
    """

    def __init__(self, *, capacity: int = 200_000) -> None:
        self.entries: deque[Entry] = deque(maxlen=capacity)
        self.is_kept = capacity > 0
        self.in_flight = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything but the requests that are still in flight."""
        self.entries.clear()
        self.total = 0
        self.max_in_flight = self.in_flight
        self.by_status: Counter[int] = Counter()
        self.by_model: Counter[str] = Counter()
        self._all = SlidingMaximum()
        self._answered = SlidingMaximum()

    def open(self, entry: Entry) -> None:
        """Book an arrival; the status that will be answered is known by then."""
        self.total += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self.by_status[entry.status] += 1
        self.by_model[entry.model] += 1
        if self.is_kept:
            self.entries.append(entry)
            self._all.add(entry.t_arrival)
            if 200 <= entry.status < 300:
                self._answered.add(entry.t_arrival)

    def close(self, entry: Entry, *, t: float) -> None:
        """Book the end of an answer."""
        entry.t_end = t
        self.in_flight -= 1

    def counts(self) -> dict[str, object]:
        """Totals and maxima; `max_in_any_60s` is None when no ledger is kept."""
        windows = {"all": self._all.maximum, "answered_2xx": self._answered.maximum}
        return {
            "total": self.total,
            "by_status": {str(status): count for status, count in self.by_status.items()},
            "by_model": dict(self.by_model),
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "max_in_any_60s": windows if self.is_kept else None,
        }
