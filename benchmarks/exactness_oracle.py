"""What was true: the most that any interval held, found from the upstream's own ledger alone."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.exactness_upstream import Arrival

_PERIODS_S = {"m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class Window:
    """A configured limit, as an outsider reads it.

    Attributes:
        scope: the model or the account that is limited.
        models: the upstream's names of what it covers.
        kind: as in the configuration: ``rpm``, ``otpm``, ``concurrency``, ``min_delta``.
        limit: requests, tokens or calls; for ``min_delta`` seconds.
        allowed: what an interval may hold; above the limit for token buckets only.
    """

    scope: str
    models: frozenset[str]
    kind: str
    limit: float
    allowed: float


@dataclass(frozen=True, slots=True)
class Finding:
    """The true maximum of a window (for ``min_delta`` the least distance), and its excess."""

    window: Window
    maximum: float
    over: float


def judge(window: Window, arrivals: Iterable[Arrival]) -> Finding:
    """The extreme of one window over everything that arrived."""
    mine = sorted((one for one in arrivals if one.model in window.models), key=lambda one: one.at_s)
    if window.kind == "min_delta":
        gaps = (later.at_s - earlier.at_s for earlier, later in zip(mine, mine[1:], strict=False))
        least = min(gaps, default=window.limit)
        return Finding(window, least, max(0.0, window.allowed - least))
    maximum = _most_at_once(mine) if window.kind == "concurrency" else _most_counted(window.kind, mine)
    return Finding(window, maximum, max(0.0, maximum - window.allowed))


def _most_at_once(arrivals: Sequence[Arrival]) -> int:
    """Ends sort before arrivals of the same moment; a call without an end runs for ever."""
    moves = [(one.at_s, 1) for one in arrivals]
    moves += [(one.end_s, -1) for one in arrivals if one.end_s is not None]
    running = most = 0
    for _, change in sorted(moves):
        running += change
        most = max(most, running)
    return most


def _most_counted(kind: str, arrivals: Sequence[Arrival]) -> int:
    what, period_s = kind[:-2], _PERIODS_S[kind[-1]]
    amounts = [(one.at_s, _amount(what, one)) for one in arrivals]
    if kind[-1] == "d":
        days: Counter[int] = Counter()
        for at_s, amount in amounts:
            days[int(at_s // period_s)] += amount
        return max(days.values(), default=0)
    return _most_sliding(amounts, period_s)


def _amount(what: str, arrival: Arrival) -> int:
    return {
        "r": 1,
        "t": arrival.tokens_in + arrival.tokens_out,
        "it": arrival.tokens_in,
        "ot": arrival.tokens_out,
    }[what]


def _most_sliding(amounts: Iterable[tuple[float, int]], period_s: float) -> int:
    held: deque[tuple[float, int]] = deque()
    total = most = 0
    for at_s, amount in amounts:
        held.append((at_s, amount))
        total += amount
        while held[0][0] <= at_s - period_s:
            total -= held.popleft()[1]
        most = max(most, total)
    return most


@dataclass(frozen=True, slots=True)
class Balance:
    """Upstream calls against the books, once all was quiet."""

    lost: int
    double: int
    leaked: int


def compare(arrivals: Iterable[Arrival], rows: Iterable[dict[str, object]]) -> Balance:
    """A call without a booking is lost; one booking closed twice is double; a slot still held has leaked."""
    calls = Counter(one.model for one in arrivals)
    closed: Counter[str] = Counter()
    double = leaked = 0
    for row in rows:
        admitted, settled, abandoned, flying = (
            int(str(row[name])) for name in ("admitted", "settled", "abandoned", "in_flight")
        )
        closed[str(row["model"])] += settled + abandoned
        double += max(0, settled + abandoned + flying - admitted)
        leaked += flying
    return Balance(sum((calls - closed).values()), double, leaked)
