"""Selection strategies, one a file, by their catalogue id."""

from __future__ import annotations

from collections.abc import Iterable

from node.routing.strategies.base import Hints, Need, Request, Signal, Strategy
from node.routing.strategies.canary import Canary
from node.routing.strategies.cost_first import CostFirst
from node.routing.strategies.custom import StrategyLoadError, load_custom
from node.routing.strategies.in_order import InOrder
from node.routing.strategies.latency_first import LatencyFirst
from node.routing.strategies.least_busy import LeastBusy
from node.routing.strategies.load_balanced import LoadBalanced
from node.routing.strategies.power_of_two import PowerOfTwo
from node.routing.strategies.priority_selection import PrioritySelection
from node.routing.strategies.rate_limit_aware import RateLimitAware
from node.routing.strategies.round_robin import RoundRobin
from node.routing.strategies.session_stickiness import SessionStickiness
from node.routing.strategies.stick_until_failure import StickUntilFailure
from shared_state.catalogue import selection_strategy
from shared_state.config.pools import PoolConfig
from shared_state.config.strategies import is_custom
from shared_state.errors import ConfigurationError
from shared_state.topology import PoolSpec

STRATEGIES: dict[str, type[Strategy]] = {
    kind.id: kind
    for kind in (
        StickUntilFailure,
        PrioritySelection,
        RoundRobin,
        CostFirst,
        LatencyFirst,
        SessionStickiness,
        RateLimitAware,
        LoadBalanced,
        LeastBusy,
        PowerOfTwo,
        Canary,
    )
}

__all__ = [
    "STRATEGIES",
    "Hints",
    "Need",
    "Request",
    "Signal",
    "Strategy",
    "build_strategies",
    "build_strategy",
]


def build_strategy(pool: PoolConfig) -> Strategy:
    """The strategy of a pool, with its options.

    Raises:
        StrategyLoadError: it is not among those of the catalogue and cannot be loaded.
    """

    def build(name: str) -> Strategy:
        if is_custom(name):
            return load_custom(pool.model_copy(update={"strategy": name}))
        return STRATEGIES[selection_strategy(name)].create(pool, build)

    return InOrder() if pool.score is not None else build(pool.strategy)


def build_strategies(pools: Iterable[PoolSpec]) -> dict[str, Strategy]:
    """The strategies of all pools.

    Raises:
        ConfigurationError: with each one that cannot be loaded.
    """
    built: dict[str, Strategy] = {}
    faults = []
    for pool in pools:
        try:
            built[pool.id] = build_strategy(pool.config)
        except StrategyLoadError as error:
            faults.append(f"pools.{pool.id}.strategy: {error}")
    if faults:
        raise ConfigurationError(faults)
    return built
