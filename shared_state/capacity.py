"""What a pool can still take: the quotas of its members as one, each account and each model counted once. Pure functions.

A line of a pool is one kind of quota over one period, as requests per day. For it a member can take what its own windows of that
period and all longer ones leave, and all members of an account together no more than the account's windows do.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from shared_state.forecast import runs_dry_in
from shared_state.limits import Dimension
from shared_state.topology import ModelSpec, PoolSpec
from shared_state.usage import PERIODS, DomainUse, Rates, WindowUse, add_rates


@dataclass(frozen=True, slots=True)
class Line:
    """One kind of quota of a pool; money in USD 1e-9.

    Attributes:
        limit: of the active members together; infinity if one of them is not limited so.
        remaining: what they can still take.
        resting: what members on standby could take besides.
        rate: what is used per second now.
        dry_s: seconds until nothing remains at this rate; infinity if it lasts.
    """

    dimension: Dimension
    period: str
    limit: float
    remaining: float
    resting: float
    rate: float
    dry_s: float


@dataclass(frozen=True, slots=True)
class _Part:
    """What one account contributes to a line: the windows that bound it, none if nothing does."""

    windows: tuple[WindowUse, ...]
    rate: float

    @property
    def remaining(self) -> float:
        return sum(w.remaining for w in self.windows) if self.windows else math.inf

    @property
    def limit(self) -> float:
        return sum(float(w.limit) for w in self.windows) if self.windows else math.inf


def lines_of(
    pool: PoolSpec,
    uses: Mapping[str, DomainUse],
    rates: Mapping[str, Rates],
    *,
    is_active: Callable[[ModelSpec], bool],
) -> list[Line]:
    """All lines of a pool, by kind and then by period, shortest first."""
    members = {model.id: model for model in pool.models}
    active = [model for model in members.values() if is_active(model)]
    lines = []
    for dimension, period in _kinds(members.values(), uses):
        parts = _parts(active, uses, rates, dimension, period)
        everyone = _parts(members.values(), uses, rates, dimension, period)
        remaining = sum(part.remaining for part in parts)
        rate = sum(part.rate for part in everyone)
        lines.append(
            Line(
                dimension=dimension,
                period=period,
                limit=sum(part.limit for part in parts),
                remaining=remaining,
                resting=_beyond(sum(part.remaining for part in everyone), remaining),
                rate=rate,
                dry_s=_dry_in(parts, uses, rate),
            )
        )
    return lines


def first_dry(lines: Iterable[Line]) -> Line | None:
    """The line that ends first; None if all last."""
    ending = [line for line in lines if math.isfinite(line.dry_s)]
    return min(ending, key=lambda line: line.dry_s, default=None)


def _kinds(members: Iterable[ModelSpec], uses: Mapping[str, DomainUse]) -> list[tuple[Dimension, str]]:
    """What is limited anywhere among the members: dimension and period."""
    windows = [
        window
        for model in members
        for scope in (uses[model.domain].account, uses[model.domain].models[model.id])
        for window in scope
    ]
    kinds = {(w.dimension, w.period) for w in windows if w.period and w.is_enforced}
    return sorted(kinds, key=lambda kind: (kind[0], PERIODS.index(kind[1])))


def _parts(
    members: Iterable[ModelSpec],
    uses: Mapping[str, DomainUse],
    rates: Mapping[str, Rates],
    dimension: Dimension,
    period: str,
) -> list[_Part]:
    by_domain: defaultdict[str, list[str]] = defaultdict(list)
    for model in members:
        by_domain[model.domain].append(model.id)
    return [_part(uses[domain], models, rates, dimension, period) for domain, models in by_domain.items()]


def _part(
    use: DomainUse, models: Sequence[str], rates: Mapping[str, Rates], dimension: Dimension, period: str
) -> _Part:
    account = _tightest(use.account, dimension, period)
    own = [_tightest(use.models[model], dimension, period) for model in models]
    bounded = [window for window in own if window is not None]
    is_bounded = len(bounded) == len(own)
    if account is not None and not (
        is_bounded and sum(window.remaining for window in bounded) < account.remaining
    ):
        # Whoever else uses the account takes from the same.
        everyone = add_rates(rates.get(model, {}) for model in use.models)
        return _Part((account,), everyone.get(dimension, 0.0))
    rate = add_rates(rates.get(model, {}) for model in models).get(dimension, 0.0)
    return _Part(tuple(bounded) if is_bounded else (), rate)


def _tightest(scope: Iterable[WindowUse], dimension: Dimension, period: str) -> WindowUse | None:
    """The window that leaves least for a period: its own, or a longer one that is nearly full."""
    rank = PERIODS.index(period)
    bounding = [
        w
        for w in scope
        if w.dimension == dimension and w.is_enforced and w.period and PERIODS.index(w.period) >= rank
    ]
    return min(bounding, key=lambda window: window.remaining, default=None)


def _dry_in(parts: Sequence[_Part], uses: Mapping[str, DomainUse], rate: float) -> float:
    if any(not part.windows for part in parts):
        return math.inf
    now_ms = max(use.now_ms for use in uses.values())
    return runs_dry_in([window.tank(now_ms) for part in parts for window in part.windows], rate)


def _beyond(whole: float, part: float) -> float:
    return whole - part if math.isfinite(whole) else (math.inf if math.isfinite(part) else 0.0)
