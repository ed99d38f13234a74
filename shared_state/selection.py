"""What a pool's selection keys come to: the order of its members, its word on their limits, and every fault in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from shared_state.catalogue import CatalogueError, selection_strategy
from shared_state.config.faults import FaultLog, suggest
from shared_state.config.limits import LimitsConfig
from shared_state.config.pools import PoolConfig
from shared_state.config.strategies import OPTIONS, CustomOptions, option_keys
from shared_state.specs import ModelSpec

_PRIORITY: Final = "modelmesh.priority-selection.v1"
_CANARY: Final = "modelmesh.canary.v1"
#: Keys that only some strategies obey.
_OPTION_KEYS: Final = frozenset().union(*(option_keys(s) for s in OPTIONS), CustomOptions.model_fields)


def in_priority(pool: PoolConfig, members: Iterable[ModelSpec]) -> list[ModelSpec]:
    """The pool's order: listed models, then models of listed providers, then the rest as configured."""
    models = {name: place for place, name in enumerate(pool.model_priority)}
    providers = {name: place for place, name in enumerate(pool.provider_priority)}

    def place(spec: ModelSpec) -> tuple[int, int]:
        return models.get(spec.id, len(models)), providers.get(spec.provider, len(providers))

    return sorted(members, key=place)


def limit_by_pools(
    pools: Mapping[str, PoolConfig],
    models: Mapping[str, ModelSpec],
    members_of: Callable[[str, PoolConfig], Iterable[ModelSpec]],
) -> dict[str, ModelSpec]:
    """The models under the caps of their pools too: a window of its own on each model, the strictest word holds."""
    limited = dict(models)
    for pool_id, pool in pools.items():
        rules = pool.rate_limit
        if rules is None or not (rules.max_rpm or rules.min_delta):
            continue
        for spec in members_of(pool_id, pool):
            known = limited[spec.id]
            limits = _stricter(known.config.limits, rules.max_rpm, rules.min_delta)
            limited[spec.id] = replace(known, config=known.config.model_copy(update={"limits": limits}))
    return limited


def _stricter(limits: LimitsConfig, max_rpm: int, min_delta: float) -> LimitsConfig:
    update: dict[str, object] = {}
    if max_rpm:
        update["rpm"] = min(max_rpm, limits.rpm or max_rpm)
    if min_delta:
        update["min_delta"] = max(min_delta, limits.min_delta or 0.0)
    return limits.model_copy(update=update)


def find_strategy(pool_id: str, pool: PoolConfig, members: Iterable[ModelSpec], log: FaultLog) -> str:
    """The full id of the pool's strategy; keys that it does not obey, and names that are no members, are faults."""
    path = ("pools", pool_id)
    strategy = _known(pool.strategy, (*path, "strategy"), log)
    used = set(option_keys(strategy))
    if strategy == _PRIORITY and pool.fallback_strategy != "error":
        fallback = _known(pool.fallback_strategy, (*path, "fallback_strategy"), log)
        if fallback == strategy:
            log.add((*path, "fallback_strategy"), "cannot be priority-selection itself")
        used |= option_keys(fallback)
    if pool.score is not None:
        for key in sorted(pool.model_fields_set & _OPTION_KEYS):
            log.add((*path, key), "is not used together with score, which decides the order itself")
    elif log.is_sound((*path, "strategy"), (*path, "fallback_strategy")):
        for key in sorted((pool.model_fields_set & _OPTION_KEYS) - used):
            log.add((*path, key), f"is not used by strategy {strategy}{_users(key)}")
    _check_names(pool_id, pool, list(members), log)
    if strategy == _CANARY and not 0 < sum(pool.weights.values()) <= 1:
        log.add_absence(
            (*path, "weights"), "must name the part of each canary, such as 0.05, at most 1 together"
        )
    return strategy


def _known(name: str, path: tuple[str, ...], log: FaultLog) -> str:
    try:
        return selection_strategy(name)
    except CatalogueError as error:
        log.add(path, str(error))
        return name


def _users(key: str) -> str:
    users = [strategy for strategy in OPTIONS if key in option_keys(strategy)]
    return f"; it belongs to {', '.join(users)}" if users else "; it belongs to strategies given as a class"


def _check_names(pool_id: str, pool: PoolConfig, members: list[ModelSpec], log: FaultLog) -> None:
    models, providers = [m.id for m in members], list(dict.fromkeys(m.provider for m in members))
    if not log.is_sound(("pools", pool_id, "models"), ("models",), ("providers",)):
        return
    for key, names, known in (
        ("model_priority", pool.model_priority, models),
        ("weights", list(pool.weights), models),
        ("provider_priority", pool.provider_priority, providers),
    ):
        for index, name in enumerate(names):
            if name not in known:
                place = name if key == "weights" else index
                what = "provider of a member" if key == "provider_priority" else "member"
                log.add(
                    ("pools", pool_id, key, place), f"{name!r} is no {what} of the pool{suggest(name, known)}"
                )
