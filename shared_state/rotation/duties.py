"""From the pools' rules to their members: a cap or a maintenance window of a pool is one of the model, in whatever pool it serves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from shared_state.config.faults import FaultLog
from shared_state.config.limits import Cap, CappedLimits, LimitsConfig
from shared_state.config.pools import MaintenanceConfig, PoolConfig
from shared_state.specs import ModelSpec

#: Key of each cap and the reason that it gives, weightiest first.
_CAPS: Final = (
    ("budget_limit", "budget_exceeded"),
    ("token_limit", "token_limit"),
    ("request_limit", "request_limit"),
)
_CALENDAR_KEYS: Final = frozenset({"timezone", "reset_hour", "reset_day"})


def put_on_duty(
    pools: Mapping[str, PoolConfig],
    models: Mapping[str, ModelSpec],
    members: Callable[[str, PoolConfig], Iterable[ModelSpec]],
    accounts: Mapping[str, LimitsConfig],
    log: FaultLog,
) -> dict[str, ModelSpec]:
    """The models under the caps and maintenance windows of their pools; of two caps of a kind the stricter holds.

    Args:
        members: of each pool.
        accounts: limits of each quota domain, for its calendar.
    """
    ruled = dict(models)
    for pool_id, pool in pools.items():
        window = pool.deactivation.maintenance_window
        if window is None and not pool.deactivation.has_caps:
            continue
        for name in [spec.id for spec in members(pool_id, pool)]:
            spec = ruled[name]
            calendar = _calendar(spec.config.limits, accounts.get(spec.domain, LimitsConfig()))
            if window is not None:
                spec = replace(spec, maintenance=(*spec.maintenance, _in_zone(window, calendar)))
            ruled[name] = _cap(pool_id, pool, spec, calendar, log)
    return ruled


def _calendar(model: LimitsConfig, account: LimitsConfig) -> LimitsConfig:
    """Whoever of the two says something about the calendar, the model first."""
    return model if model.model_fields_set & _CALENDAR_KEYS else account


def _in_zone(window: MaintenanceConfig, calendar: LimitsConfig) -> MaintenanceConfig:
    return window if window.timezone else window.model_copy(update={"timezone": calendar.timezone})


def _cap(pool_id: str, pool: PoolConfig, spec: ModelSpec, calendar: LimitsConfig, log: FaultLog) -> ModelSpec:
    limits = spec.config.limits
    caps = {cap.reason: cap for cap in limits.caps} if isinstance(limits, CappedLimits) else {}
    for cap in _caps(pool, calendar):
        known = caps.get(cap.reason)
        if known is not None and replace(known, most=0, returns=True) != replace(cap, most=0, returns=True):
            path = ("pools", pool_id, "deactivation")
            log.add(
                path, f"caps {spec.id!r} over another period than another pool does; choose one of the two"
            )
        if known is None or cap.most < known.most:
            caps[cap.reason] = cap
    if not caps:
        return spec
    ordered = [caps[reason] for _, reason in _CAPS if reason in caps]
    limited = spec.config.model_copy(update={"limits": CappedLimits.of(limits, ordered)})
    return replace(spec, config=limited)


def _caps(pool: PoolConfig, calendar: LimitsConfig) -> list[Cap]:
    rules, recovery = pool.deactivation, pool.recovery
    is_utc = recovery.quota_reset_schedule == "daily_utc"
    is_daily = is_utc or rules.quota_window == "daily"
    return [
        Cap(
            reason=reason,  # type: ignore[arg-type]
            most=most,
            period="d" if is_daily else "M",
            timezone="UTC" if is_utc else calendar.timezone,
            reset_hour=0 if is_utc else calendar.reset_hour,
            reset_day=calendar.reset_day,
            returns=recovery.on_quota_reset,
        )
        for key, reason in _CAPS
        if (most := getattr(rules, key)) is not None
    ]
