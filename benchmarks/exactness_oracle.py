"""What was true: the most that any window held, found from the upstream's own ledger alone."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from benchmarks.exactness_windows import MONEY, Window

_TOKENS_PER_PRICE = 1e6
#: Below this a sum of money is a matter of adding floats.
_DUST = 1e-9


@dataclass(frozen=True, slots=True)
class Arrival:
    """One call as the upstream saw it.

    Attributes:
        at_s: Unix time at which it had arrived.
        end_s: when its answer was over or the caller had left; None while it runs.
        tokens_in: as the upstream counts them; 0 for a call that it refused.
        tokens_out: what its answer used, or would have used had the caller stayed.
        status: what it was answered with; 0 for none.
    """

    model: str
    at_s: float
    tokens_in: int
    tokens_out: int
    end_s: float | None = None
    status: int = 200


@dataclass(frozen=True, slots=True)
class Finding:
    """The true maximum of a window (for ``min_delta`` the least distance), and its excess beyond what is tolerated."""

    window: Window
    maximum: float
    over: float


def judge(window: Window, arrivals: Iterable[Arrival]) -> Finding:
    """The extreme of one window over everything that arrived."""
    mine = sorted((one for one in arrivals if one.model in window.models), key=lambda one: one.at_s)
    if window.way == "min_delta":
        return _judge_spacing(window, mine)
    if window.way == "concurrency":
        maximum: float = _most_at_once(mine)
    else:
        amounts = [(one.at_s, _amount(window, one)) for one in mine]
        maximum = _MOST[window.way](window, amounts)
    excess = maximum - window.limit - window.tolerance
    return Finding(window, maximum, excess if excess > _DUST else 0.0)


def _judge_spacing(window: Window, arrivals: Sequence[Arrival]) -> Finding:
    """Any n calls in a row take n - 1 distances. One that arrives early by the way it took is forgiven, a lead that grows is not."""
    gaps = (later.at_s - earlier.at_s for earlier, later in zip(arrivals, arrivals[1:], strict=False))
    lead = most = float("-inf")
    for number, one in enumerate(arrivals):
        plan = one.at_s - number * window.limit
        most = max(most, plan)
        lead = max(lead, most - plan)
    excess = lead - window.tolerance
    return Finding(window, min(gaps, default=window.limit), excess if excess > _DUST else 0.0)


def _most_at_once(arrivals: Sequence[Arrival]) -> int:
    """Ends sort before arrivals of the same moment; a call without an end runs for ever."""
    moves = [(one.at_s, 1) for one in arrivals]
    moves += [(one.end_s, -1) for one in arrivals if one.end_s is not None]
    running = most = 0
    for _, change in sorted(moves):
        running += change
        most = max(most, running)
    return most


def _amount(window: Window, arrival: Arrival) -> float:
    if window.kind in MONEY:
        price = window.prices[arrival.model]
        spent = arrival.tokens_in * price.input + arrival.tokens_out * price.output
        return spent / _TOKENS_PER_PRICE
    counts = {"r": 1, "it": arrival.tokens_in, "ot": arrival.tokens_out}
    return counts.get(window.kind[:-2], arrival.tokens_in + arrival.tokens_out)


def _most_sliding(window: Window, amounts: Iterable[tuple[float, float]]) -> float:
    """The fullest interval, its end left out: two calls a whole period apart do not share one."""
    held: deque[tuple[float, float]] = deque()
    total = most = 0.0
    for at_s, amount in amounts:
        held.append((at_s, amount))
        total += amount
        while held[0][0] <= at_s - window.period_s:
            total -= held.popleft()[1]
        most = max(most, total)
    return most


def _most_in_a_period(window: Window, amounts: Iterable[tuple[float, float]]) -> float:
    periods: Counter[Hashable] = Counter()
    for at_s, amount in amounts:
        periods[_period_of(window, at_s)] += amount  # type: ignore[assignment]  # a Counter counts money as well
    return float(max(periods.values(), default=0.0))


def _period_of(window: Window, at_s: float) -> Hashable:
    """What all moments of one period of the window's calendar have in common."""
    local = datetime.fromtimestamp(at_s, ZoneInfo(window.timezone))
    if window.period in "mh":
        offset = local.utcoffset() or timedelta()
        return (at_s + offset.total_seconds()) // window.period_s
    day = (local.replace(tzinfo=None) - timedelta(hours=window.reset_hour)).date()
    if window.period == "w":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if window.period == "M" else day


def _highest_level(window: Window, amounts: Iterable[tuple[float, float]]) -> float:
    level = most = last_s = 0.0
    for at_s, amount in amounts:
        level = max(0.0, level - (at_s - last_s) * window.limit / window.period_s) + amount
        most, last_s = max(most, level), at_s
    return most


_MOST = {"sliding": _most_sliding, "calendar": _most_in_a_period, "token_bucket": _highest_level}


@dataclass(frozen=True, slots=True)
class Balance:
    """Upstream calls against the books, once all was quiet.

    Attributes:
        lost: calls that no closed booking stands for, and admissions that are neither closed nor in flight.
        double: closed or in flight more often than admitted.
        leaked: still held though nothing runs.
        abandoned: closed by whoever cleans up, not by whoever asked. No fault after somebody's death; else a settlement went
            missing on its way.
    """

    lost: int = 0
    double: int = 0
    leaked: int = 0
    abandoned: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing is off."""
        return not (self.lost or self.double or self.leaked)


def compare(arrivals: Iterable[Arrival], rows: Iterable[dict[str, object]]) -> Balance:
    """Calls against rows of books with ``model``, ``admitted``, ``settled``, ``abandoned`` and ``in_flight``.

    A booking without a call is no fault: what was admitted and then not sent is closed as well.
    """
    calls = Counter(one.model for one in arrivals)
    closed: Counter[str] = Counter()
    missing = double = leaked = cleaned_up = 0
    for row in rows:
        admitted, settled, abandoned, flying = (
            int(str(row[name])) for name in ("admitted", "settled", "abandoned", "in_flight")
        )
        closed[str(row["model"])] += settled + abandoned
        difference = admitted - settled - abandoned - flying
        missing, double = missing + max(0, difference), double + max(0, -difference)
        leaked, cleaned_up = leaked + flying, cleaned_up + abandoned
    return Balance(missing + sum((calls - closed).values()), double, leaked, cleaned_up)
