"""Who is to be probed: pure functions of states and clocks. Real traffic comes first; a probe is for what nobody asks for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from shared_state.state import EntityState, Mode, Status
from shared_state.topology import ModelSpec, PoolSpec, Topology

_DEAR: Final = (
    "generation.image-generation.",
    "generation.video-generation.",
    "transformation.image-editing.",
)


def is_waiting(states: Iterable[EntityState], now_ms: int) -> bool:
    """Whether nothing but a trial is between a model and the traffic, and none is under way.

    Args:
        states: those of the model and its account.
    """
    resting = [state for state in states if state.status != Status.ACTIVE]
    return bool(resting) and all(state.mode == Mode.TRIAL and state.is_probable(now_ms) for state in resting)


def waits_since_ms(states: Iterable[EntityState]) -> int:
    """The moment from which on any request could have been that trial."""
    return max((state.until_ms for state in states if state.status != Status.ACTIVE), default=0)


def interval_of(model: ModelSpec, topology: Topology) -> float:
    """How long a model waits for a request before it is probed, and between two probes, in seconds; 0 for ever.

    The most impatient of its pools decides. A model whose smallest answer costs real money is probed only if a pool says when.
    """
    usual, pools = topology.config.scheduler.probe_interval, _pools_of(model, topology)
    if is_dear(model):
        usual = 0.0
    asked = [pool.config.recovery.probe_interval for pool in pools]
    intervals = [usual if interval is None else interval for interval in asked] if pools else [usual]
    return min((interval for interval in intervals if interval > 0), default=0.0)


def is_dear(model: ModelSpec) -> bool:
    """Whether all that it does is to make images or films."""
    return bool(model.capabilities) and all(path.startswith(_DEAR) for path in model.capabilities)


def is_probed_on_start(model: ModelSpec, topology: Topology) -> bool:
    """Whether a pool wants the model probed when a scheduler takes the lead."""
    return any(pool.config.recovery.probe_on_start for pool in _pools_of(model, topology))


def _pools_of(model: ModelSpec, topology: Topology) -> list[PoolSpec]:
    return [pool for pool in topology.pools.values() if model in pool.models]
