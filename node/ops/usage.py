"""Usage as operators see it: windows of accounts and models, and each pool as one quota."""

from __future__ import annotations

import math
from collections.abc import Callable

from shared_state.capacity import Line, first_dry, lines_of
from shared_state.shapes.usage import (
    AccountUsage,
    ModelUsage,
    PoolUsage,
    QuotaUsage,
    UsageView,
    WindowUsage,
)
from shared_state.specs import DomainSpec, ModelSpec, PoolSpec
from shared_state.topology import Topology
from shared_state.usage import Rates, Usage, WindowUse, add_rates, in_units, unit_name


def view_usage(usage: Usage, topology: Topology, *, is_active: Callable[[ModelSpec], bool]) -> UsageView:
    """The whole view."""
    return UsageView(
        time=usage.now_ms / 1000,
        pools=[_pool(pool, usage, is_active) for pool in topology.pools.values()],
        accounts=[_account(domain, usage, is_active) for domain in topology.domains.values()],
    )


def _pool(pool: PoolSpec, usage: Usage, is_active: Callable[[ModelSpec], bool]) -> PoolUsage:
    lines = lines_of(pool, usage.domains, usage.rates, is_active=is_active)
    first = first_dry(lines)
    return PoolUsage(
        id=pool.id,
        active=sum(map(is_active, pool.models)),
        members=len(pool.models),
        accounts=list(dict.fromkeys(model.domain for model in pool.models)),
        quotas=[_quota(line) for line in lines],
        dry_s=_finite(first.dry_s) if first else None,
        dry_by=unit_name(first.dimension, first.period) if first else None,
    )


def _quota(line: Line) -> QuotaUsage:
    def counted(amount: float) -> float | None:
        return _finite(in_units(line.dimension, amount))

    return QuotaUsage(
        unit=unit_name(line.dimension, line.period),
        limit=counted(line.limit),
        remaining=counted(line.remaining),
        resting=counted(line.resting),
        share=_share(line),
        rate=in_units(line.dimension, line.rate),
        dry_s=_finite(line.dry_s),
    )


def _share(line: Line) -> float:
    if not math.isfinite(line.limit):
        return 0.0
    return (line.limit - line.remaining) / line.limit if line.limit else 1.0


def _account(domain: DomainSpec, usage: Usage, is_active: Callable[[ModelSpec], bool]) -> AccountUsage:
    use = usage.domains[domain.id]
    everyone = add_rates(usage.rates.get(model.id, {}) for model in domain.models)
    return AccountUsage(
        id=domain.id,
        providers=[provider.id for provider in domain.providers],
        windows=[_window(window, everyone, use.now_ms) for window in use.account],
        models=[
            ModelUsage(
                id=model.id,
                status="active" if is_active(model) else "standby",
                windows=[
                    _window(window, usage.rates.get(model.id, {}), use.now_ms)
                    for window in use.models[model.id]
                ],
            )
            for model in domain.models
        ],
    )


def _window(window: WindowUse, rates: Rates, now_ms: int) -> WindowUsage:
    def counted(amount: float) -> float:
        return in_units(window.dimension, amount)

    return WindowUsage(
        name=window.name,
        unit=unit_name(window.dimension, window.period),
        algorithm=window.algorithm.name.lower(),
        used=counted(window.used),
        held=counted(window.held),
        limit=counted(window.limit),
        remaining=counted(window.remaining),
        share=window.share,
        resets=window.resets_ms / 1000 if window.resets_ms else None,
        rate=counted(rates.get(window.dimension, 0.0)) if window.period else 0.0,
        dry_s=_finite(window.dry_in(rates, now_ms)),
    )


def _finite(amount: float) -> float | None:
    return amount if math.isfinite(amount) else None
