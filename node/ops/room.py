"""The room of each candidate for a request: what its windows, its account's, its pool's and the mesh's still hold.

Read, not asked for: nothing is reserved, and who asks for admission a moment later may find it otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from node.call import Call, Target
from node.routing.estimate import Estimate, estimate, output_room, token_room
from node.routing.pipeline import Plan
from shared_state.config import LimitsConfig
from shared_state.gates import MESH_GATE, build_gate, key_gate, pool_gate
from shared_state.limits import Dimension
from shared_state.shapes.decision import HeadroomView, HeadroomWindow
from shared_state.store import Store
from shared_state.topology import DomainSpec, ModelSpec, PoolSpec, Topology
from shared_state.usage import DomainUse, WindowUse, in_units, read_domain_use

_NANO_PER_USD: Final = 10**9


class Rooms:
    """Looks at the windows of candidates."""

    def __init__(self, store: Store, topology: Topology) -> None:
        self._store = store
        self._topology = topology

    async def of(self, call: Call, plan: Plan, *, now_ms: int) -> list[HeadroomView]:
        """Targets in their order, then those that would not be tried.

        Raises:
            RedisError, OSError, TimeoutError: the store is away.
        """
        places = {target: place for place, target in enumerate(plan.targets)}
        tried = {target.model for target in plan.targets}
        rows = [*plan.targets, *(target for target in _meant(plan) if target.model not in tried)]
        wanted = {spec.id: spec for target in rows for _, spec in self._domains(call, target)}
        uses = {
            name: await read_domain_use(self._store, spec, now_ms=now_ms) for name, spec in wanted.items()
        }
        return [self._room(call, target, uses, places.get(target)) for target in rows]

    def _domains(self, call: Call, target: Target) -> Iterator[tuple[str, DomainSpec]]:
        """Where a call is counted besides the model, and how the windows there are marked."""
        yield "account.", self._topology.domains[target.model.domain]
        if call.key is not None:
            yield "key.", build_gate(key_gate(call.key.id), call.key.limits)
        for prefix, gate in (("pool.", pool_gate(target.pool.id)), ("mesh.", MESH_GATE)):
            if gate in self._topology.gates:
                yield prefix, self._topology.gates[gate]

    def _room(
        self, call: Call, target: Target, uses: Mapping[str, DomainUse], place: int | None
    ) -> HeadroomView:
        model, own = target.model, target.model.config.limits
        account = self._topology.domains[model.domain].limits
        need = estimate(call, model, token_room(own, account), output_room(own, account))
        use = uses[model.domain]
        windows = [*_windows(use.models[model.id], own, need), *_spacing(use, model.id)]
        for prefix, spec in self._domains(call, target):
            windows += _windows(uses[spec.id].account, spec.limits, need, prefix=prefix)
            windows += _spacing(uses[spec.id], "", prefix=prefix)
        tight = [window for window in windows if not window.fits]
        opens = [window.opens for window in tight if window.opens is not None]
        return HeadroomView(
            model=model.id,
            pool=target.pool.id,
            provider=model.provider,
            place=place,
            admits=not tight,
            opens=max(opens) if opens and len(opens) == len(tight) else None,
            never=any(window.takes > window.limit for window in tight),
            tokens_in=need.tokens_in,
            tokens_out=need.tokens_out,
            cost_usd=need.cost_nano / _NANO_PER_USD if model.is_priced else None,
            windows=windows,
        )


def _meant(plan: Plan) -> Iterator[Target]:
    """Everybody whom the name stands for, each once."""
    seen = set()
    for pool in plan.resolution.pools:
        for model in _members(plan, pool):
            if model not in seen:
                seen.add(model)
                yield Target(model, pool)


def _members(plan: Plan, pool: PoolSpec) -> Iterable[ModelSpec]:
    only = plan.resolution.models
    return (model for model in pool.models if only is None or model in only)


def _windows(
    uses: Iterable[WindowUse], limits: LimitsConfig, need: Estimate, *, prefix: str = ""
) -> Iterator[HeadroomWindow]:
    for window in uses:
        if window.is_enforced:
            yield _window(window, need, prefix)
    if limits.usd_per_request is not None:
        takes, limit = need.cost_nano / _NANO_PER_USD, limits.usd_per_request
        name, fits = f"{prefix}usd_per_request", takes <= limit
        yield HeadroomWindow(name=name, limit=limit, remaining=limit, takes=takes, fits=fits)


def _spacing(use: DomainUse, scope: str, *, prefix: str = "") -> Iterator[HeadroomWindow]:
    """The least time between two calls, as a window of one call."""
    if scope in use.next_ms:
        next_ms = use.next_ms[scope]
        yield HeadroomWindow(
            name=f"{prefix}min_delta",
            limit=1,
            remaining=0 if next_ms else 1,
            takes=1,
            fits=not next_ms,
            opens=next_ms / 1000 if next_ms else None,
        )


def _window(window: WindowUse, need: Estimate, prefix: str) -> HeadroomWindow:
    """By what is left; a lease of this node's own, which counts as taken here, could still make way."""
    takes = _amount(window.dimension, need)
    fits = takes <= window.remaining
    opens = window.resets_ms / 1000 if not fits and window.resets_ms and takes <= window.limit else None
    return HeadroomWindow(
        name=prefix + window.name,
        limit=in_units(window.dimension, window.limit),
        remaining=in_units(window.dimension, window.remaining),
        takes=in_units(window.dimension, takes),
        fits=fits,
        opens=opens,
    )


def _amount(dimension: Dimension, need: Estimate) -> int:
    return {
        Dimension.REQUESTS: 1,
        Dimension.TOKENS: need.tokens_in + need.tokens_out,
        Dimension.TOKENS_IN: need.tokens_in,
        Dimension.TOKENS_OUT: need.tokens_out,
        Dimension.COST: need.cost_nano,
    }[dimension]
