"""What would become of a request now: the stages without sending, taking or moving anything, and the room of each candidate."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Mapping
from typing import Final

import orjson
from starlette.types import Scope

from node.api.endpoint import build_call, check_name
from node.api.surfaces import SURFACES
from node.call import Call, Surface, Target, Trail
from node.observe.record import plans_of
from node.routing.estimate import Estimate, estimate, output_room, token_room
from node.routing.pipeline import Pipeline, Plan
from node.routing.ranking import Ranker
from node.snapshot import Snapshot
from shared_state.errors import ModelMeshError, RequestError
from shared_state.limits import Dimension
from shared_state.shapes.decision import ExplainBody, ExplainView, HeadroomView, HeadroomWindow, PlanView
from shared_state.store import Store
from shared_state.topology import ModelSpec, PoolSpec, Topology
from shared_state.usage import DomainUse, WindowUse, in_units, read_domain_use

_ID: Final = "explain"
_NANO_PER_USD: Final = 10**9


class Explainer:
    """Plans without consequences.

    Args:
        ranker: the node's own; it is asked through a copy that moves nothing.
    """

    def __init__(
        self, store: Store, topology: Topology, snapshot: Snapshot, ranker: Ranker, *, node: str
    ) -> None:
        self._store = store
        self._topology = topology
        self._snapshot = snapshot
        self._pipeline = Pipeline(snapshot, ranker.looking(), draw=random.random)
        self._node = node

    async def explain(self, asked: ExplainBody) -> ExplainView:
        """What would be chosen, and why.

        Raises:
            RequestError: the request could not be sent to anybody.
            ModelNotFoundError: the name means nothing.
            RedisError, OSError, TimeoutError: the store is away.
        """
        call, trail, error = _call(asked), Trail(), None
        try:
            await self._pipeline.plan(call, trail)
        except ModelMeshError as refusal:
            if trail.plan is None:
                raise
            error = refusal
        plan: Plan = trail.plan
        headroom = await self._headroom(call, plan)
        picked = next((row.model for row in headroom if row.place is not None and row.admits), None)
        return ExplainView(
            time=time.time(),
            node=self._node,
            config_version=self._topology.version,
            api=call.surface.name,
            asked=call.name,
            is_stream=call.is_stream,
            picked=None if error else picked,
            error=error.code if error else None,
            message=error.message if error else None,
            plans=[PlanView.model_validate(one) for one in plans_of(plan)],
            headroom=headroom,
        )

    async def _headroom(self, call: Call, plan: Plan) -> list[HeadroomView]:
        """Targets in their order, then those that would not be tried."""
        places = {target: place for place, target in enumerate(plan.targets)}
        others = (Target(model, pool) for pool in plan.resolution.pools for model in _meant(plan, pool))
        rows = dict.fromkeys([*plan.targets, *others])
        tried = {target.model for target in places}
        uses = await self._uses(target.model.domain for target in rows)
        return [
            self._room(call, target, uses[target.model.domain], places.get(target))
            for target in rows
            if target in places or target.model not in tried
        ]

    async def _uses(self, domains: Iterable[str]) -> Mapping[str, DomainUse]:
        now_ms = self._snapshot.clock.now_ms()
        return {
            name: await read_domain_use(self._store, self._topology.domains[name], now_ms=now_ms)
            for name in dict.fromkeys(domains)
        }

    def _room(self, call: Call, target: Target, use: DomainUse, place: int | None) -> HeadroomView:
        model = target.model
        own, account = model.config.limits, self._topology.domains[model.domain].limits
        need = estimate(call, model, token_room(own, account), output_room(own, account))
        windows = [
            *(_window(window, need) for window in use.models[model.id]),
            *_cap(own.usd_per_request, need),
            *(_window(window, need, prefix="account.") for window in use.account),
            *_cap(account.usd_per_request, need, prefix="account."),
        ]
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
            cost_usd=need.cost_nano / _NANO_PER_USD if "pricing" in model.config.model_fields_set else None,
            windows=windows,
        )


def _meant(plan: Plan, pool: PoolSpec) -> Iterable[ModelSpec]:
    only = plan.resolution.models
    return (model for model in pool.models if only is None or model in only)


def _window(window: WindowUse, need: Estimate, *, prefix: str = "") -> HeadroomWindow:
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


def _cap(limit_usd: float | None, need: Estimate, *, prefix: str = "") -> list[HeadroomWindow]:
    if limit_usd is None:
        return []
    takes = need.cost_nano / _NANO_PER_USD
    return [
        HeadroomWindow(
            name=f"{prefix}usd_per_request",
            limit=limit_usd,
            remaining=limit_usd,
            takes=takes,
            fits=takes <= limit_usd,
        )
    ]


def _amount(dimension: Dimension, need: Estimate) -> int:
    return {
        Dimension.REQUESTS: 1,
        Dimension.TOKENS: need.tokens_in + need.tokens_out,
        Dimension.TOKENS_IN: need.tokens_in,
        Dimension.TOKENS_OUT: need.tokens_out,
        Dimension.COST: need.cost_nano,
    }[dimension]


def _call(asked: ExplainBody) -> Call:
    """The call that would be made of it; without a body only the name is looked at."""
    surface = _surface(asked.api)
    fields = {**asked.body, "model": asked.model}
    check_name(fields)
    if asked.body:
        surface.check(fields)
    headers = [
        (name.lower().encode(), value.encode("latin-1", "replace")) for name, value in asked.headers.items()
    ]
    scope: Scope = {"type": "http", "headers": headers}
    now = asyncio.get_running_loop().time()
    return build_call(surface, scope, fields, body=orjson.dumps(fields), request_id=_ID, started=now)


def _surface(api: str) -> Surface:
    path = "/" + api.strip("/").removeprefix("v1/")
    for surface in SURFACES:
        if path == surface.path:
            return surface
    known = ", ".join(surface.path.lstrip("/") for surface in SURFACES)
    raise RequestError(f"no API is at {api!r}; known are {known}", param="api")
