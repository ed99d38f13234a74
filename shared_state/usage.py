"""How full the windows of models and accounts are, and how fast they fill: the facts that forecasts stand on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import ormsgpack

from shared_state.config.limits import LimitsConfig
from shared_state.forecast import Tank, runs_dry_in
from shared_state.limits import Algorithm, Dimension, Window, windows_of
from shared_state.recent import read_recent
from shared_state.statistics import MinuteRow
from shared_state.store import Store
from shared_state.topology import DomainSpec

#: The current rate is that of the running minute and the two before it.
RATE_MINUTES: Final = 3
#: A rate over less than this says nothing.
_LEAST_SPAN_S: Final = 10.0
_UNCOUNTED: Final = frozenset({Algorithm.SPACING, Algorithm.CAP})
_MONEY_PERIODS: Final = {"usd_per_day": "d", "usd_per_month": "M"}
#: Windows of caps are named by the reason that they give.
_CAPS: Final = frozenset({"budget_exceeded", "token_limit", "request_limit"})
_TWO_DAYS_MS: Final = 48 * 3_600_000
#: Periods of windows, shortest first.
PERIODS: Final = "mhdwM"
_PERIOD_NAMES: Final = dict(zip(PERIODS, ("minute", "hour", "day", "week", "month"), strict=True))
_UNITS: Final = {
    Dimension.REQUESTS: "requests",
    Dimension.TOKENS: "tokens",
    Dimension.TOKENS_IN: "input_tokens",
    Dimension.TOKENS_OUT: "output_tokens",
    Dimension.COST: "usd",
}
_NANO_PER_USD: Final = 10**9

Rates = Mapping[Dimension, float]


@dataclass(frozen=True, slots=True)
class WindowUse:
    """A window at one moment; money in USD 1e-9.

    Attributes:
        period: one of ``PERIODS``; empty for what is in flight at once.
        length_ms: of the window; of a calendar's running period.
        used: what was taken, reservations included.
        held: what nodes hold of it as leases, for an outage; it comes back unless it is used.
        resets_ms: when the period ends, or when a full sliding window has room again; 0 if it has.
        is_enforced: False for one that is only counted and told, and never refuses.
    """

    name: str
    algorithm: Algorithm
    dimension: Dimension
    period: str
    length_ms: int
    limit: int
    used: float
    held: int
    resets_ms: int
    is_enforced: bool = True

    @property
    def remaining(self) -> float:
        """What the limit leaves now."""
        return max(0.0, self.limit - self.used - self.held)

    @property
    def share(self) -> float:
        """The part that is taken, between 0 and 1."""
        return (self.limit - self.remaining) / self.limit

    def tank(self, now_ms: int) -> Tank:
        """The window as a forecast sees it."""
        size, period_s = max(0.0, float(self.limit - self.held)), self.length_ms / 1000
        if self.algorithm == Algorithm.CALENDAR:
            return Tank(self.remaining, size, period_s, reset_s=max(0, self.resets_ms - now_ms) / 1000)
        came_in = size if self.algorithm == Algorithm.TOKEN_BUCKET else min(size, self.used)
        return Tank(self.remaining, size, period_s, inflow=came_in / period_s)

    def dry_in(self, rates: Rates, now_ms: int) -> float:
        """Seconds until it is full at this rate; infinity if it never is, or if nothing can be told."""
        if not self.is_enforced:
            return float("inf")
        if not self.period:
            return 0.0 if self.remaining <= 0 else float("inf")
        return runs_dry_in([self.tank(now_ms)], rates.get(self.dimension, 0.0))


@dataclass(frozen=True, slots=True)
class DomainUse:
    """The windows of a quota domain, consistent at one moment.

    Attributes:
        next_ms: of each scope whose calls are kept apart (a model, or empty for the account): when the next may come; 0 for now.
    """

    domain: str
    now_ms: int
    account: tuple[WindowUse, ...]
    models: Mapping[str, tuple[WindowUse, ...]]
    next_ms: Mapping[str, int] = field(default_factory=dict)


async def read_domain_use(store: Store, domain: DomainSpec, *, now_ms: int) -> DomainUse:
    """The windows of an account and its models.

    Args:
        now_ms: server time, for the calendars; it may be off by a period.
    """
    limits = {"": domain.limits, **{model.id: model.config.limits for model in domain.models}}
    scopes = [(name, windows_of(config, now_ms)) for name, config in limits.items()]
    read_ms, *rows = await store.run(
        "read_windows", [store.keys.domain(domain.id)], [ormsgpack.packb(scopes)]
    )
    uses = {
        name: tuple(_uses(windows, row, read_ms, limits[name]))
        for (name, windows), row in zip(scopes, rows, strict=True)
    }
    next_ms = {
        name: max(0, row[2 * place + 1])
        for (name, windows), row in zip(scopes, rows, strict=True)
        for place, window in enumerate(windows)
        if window[0] == Algorithm.SPACING
    }
    return DomainUse(domain.id, read_ms, uses.pop(""), uses, next_ms)


def _uses(
    windows: Sequence[Window], row: Sequence[int], now_ms: int, limits: LimitsConfig
) -> Iterable[WindowUse]:
    held = row[2 * len(windows) :]
    for window, used, resets_ms in zip(windows, row[::2], row[1::2], strict=False):
        algorithm, name, dimension, limit, *times = window[:7]
        if algorithm in _UNCOUNTED:
            continue
        yield WindowUse(
            name=name,
            algorithm=Algorithm(algorithm),
            dimension=Dimension(dimension),
            period=_period(name, algorithm, times),
            length_ms=_length_ms(algorithm, times, now_ms),
            limit=limit or round(getattr(limits, name) * _NANO_PER_USD),
            used=max(0, used),
            held=held[dimension - 1],
            resets_ms=max(0, resets_ms),
            is_enforced=limit > 0,
        )


def _period(name: str, algorithm: int, times: Sequence[int]) -> str:
    if algorithm == Algorithm.CONCURRENCY:
        return ""
    if name in _CAPS:
        return "d" if times[1] - times[0] < _TWO_DAYS_MS else "M"
    return _MONEY_PERIODS.get(name) or name[-1]


def _length_ms(algorithm: int, times: Sequence[int], now_ms: int) -> int:
    if algorithm != Algorithm.CALENDAR:
        return times[0]
    start, end, after = times
    return end - start if now_ms < end else after - end


@dataclass(frozen=True, slots=True)
class Usage:
    """The windows of all domains, and what each model uses per second."""

    now_ms: int
    domains: Mapping[str, DomainUse]
    rates: Mapping[str, Rates]


async def read_usage(store: Store, domains: Mapping[str, DomainSpec], *, now_ms: int) -> Usage:
    """Reads all windows and the current rates; domain after domain, so that it never fills the connections.

    Raises:
        RedisError, OSError, TimeoutError: the store is away.
    """
    uses = {name: await read_domain_use(store, spec, now_ms=now_ms) for name, spec in domains.items()}
    rates = await read_rates(store, domains)
    return Usage(max((use.now_ms for use in uses.values()), default=now_ms), uses, rates)


def unit_name(dimension: Dimension, period: str) -> str:
    """As ``requests_per_day``; without a period what is in flight at once."""
    return f"{_UNITS[dimension]}_per_{_PERIOD_NAMES[period]}" if period else f"{_UNITS[dimension]}_in_flight"


def in_units(dimension: Dimension, amount: float) -> float:
    """An amount as people count it: money in USD."""
    return amount / _NANO_PER_USD if dimension == Dimension.COST else amount


async def read_rates(store: Store, domains: Iterable[str]) -> dict[str, Rates]:
    """What each model uses per second now, in every dimension."""
    recent = await read_recent(store, domains, minutes=RATE_MINUTES)
    return rates_of(recent.rows, now_s=recent.now_s)


def rates_of(rows: Iterable[MinuteRow], *, now_s: float) -> dict[str, Rates]:
    """The same from the rows of the last minutes; before the first of them nothing was going on."""
    sums: defaultdict[str, Counter[Dimension]] = defaultdict(Counter)
    first = now_s
    for row in rows:
        first = min(first, row.minute * 60)
        sums[row.model].update(_amounts(row.metrics))
    span_s = max(_LEAST_SPAN_S, now_s - first)
    return {
        model: {dimension: amount / span_s for dimension, amount in amounts.items()}
        for model, amounts in sums.items()
    }


def add_rates(several: Iterable[Rates]) -> Rates:
    """What several models use together."""
    total: Counter[Dimension] = Counter()
    for rates in several:
        total.update(rates)
    return total


def _amounts(metrics: Mapping[str, int]) -> dict[Dimension, int]:
    tokens_in, tokens_out = metrics.get("tokens_in", 0), metrics.get("tokens_out", 0)
    return {
        Dimension.REQUESTS: metrics.get("attempts", 0) + metrics.get("abandoned", 0),
        Dimension.TOKENS: tokens_in + tokens_out,
        Dimension.TOKENS_IN: tokens_in,
        Dimension.TOKENS_OUT: tokens_out,
        Dimension.COST: metrics.get("cost", 0),
    }
