"""What would become of a request now: the stages without sending, taking or moving anything, and the room of each candidate."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

import orjson
from starlette.types import Scope

from node.api.endpoint import build_call, check_name
from node.api.surfaces import SURFACES
from node.call import Call, Surface, Trail
from node.observe.record import plans_of
from node.ops.room import Rooms
from node.routing.gates import drop_unpriced
from node.routing.pipeline import Pipeline, Plan
from node.routing.ranking import Ranker, limit_rules
from node.routing.strategies.rate_limit_aware import is_near_limit
from node.snapshot import Snapshot
from shared_state.client_keys import ClientKey, read_key
from shared_state.config.checks import spends_money
from shared_state.errors import (
    AuthenticationRequiredError,
    ModelMeshError,
    ModelNotAllowedError,
    ModelNotFoundError,
    RequestError,
)
from shared_state.shapes.decision import (
    ExplainBody,
    ExplainView,
    HeadroomView,
    KeyScopeView,
    PlanView,
    WaitingView,
)
from shared_state.store import Store
from shared_state.topology import Topology

_ID: Final = "explain"


class Explainer:
    """Plans without consequences.

    Args:
        ranker: the node's own; it is asked through a copy that moves nothing.
        queued: how many requests wait for a pool on this node.
    """

    def __init__(
        self,
        store: Store,
        topology: Topology,
        snapshot: Snapshot,
        ranker: Ranker,
        *,
        node: str,
        queued: Callable[[str], int] = lambda pool: 0,
    ) -> None:
        self._store = store
        self._queued = queued
        self._rooms = Rooms(store, topology)
        self._topology = topology
        self._snapshot = snapshot
        self._pipeline = Pipeline(snapshot, ranker.looking(), draw=random.random)
        self._node = node

    async def explain(self, asked: ExplainBody) -> ExplainView:
        """What would be chosen, and why.

        Raises:
            RequestError: the request could not be sent to anybody.
            ModelNotFoundError: the name means nothing, or no client key has the id.
            RedisError, OSError, TimeoutError: the store is away.
        """
        key = await self._key(asked.key) if asked.key is not None else None
        call, trail, error = _call(asked, key), Trail(), self._refusal(key)
        if error is not None:
            return self._view(call, error)
        try:
            plan = await self._pipeline.plan(call, trail)
            if key is not None and spends_money(key.limits):
                drop_unpriced(plan)
        except ModelMeshError as refusal:
            if isinstance(refusal, ModelNotAllowedError):
                return self._view(call, refusal)
            if trail.plan is None:
                raise
            error = refusal
        return await self._explained(call, trail.plan, error)

    async def _explained(self, call: Call, plan: Plan, error: ModelMeshError | None) -> ExplainView:
        headroom = await self._rooms.of(call, plan, now_ms=self._snapshot.clock.now_ms())
        picked = next((row.model for row in headroom if row.place is not None and row.admits), None)
        return self._view(
            call,
            error,
            picked=None if error else picked,
            waiting=self._waiting(plan, is_full=picked is None) if error is None else None,
            plans=[PlanView.model_validate(one) for one in plans_of(plan)],
            headroom=headroom,
        )

    def _view(
        self,
        call: Call,
        error: ModelMeshError | None,
        *,
        picked: str | None = None,
        waiting: WaitingView | None = None,
        plans: Sequence[PlanView] = (),
        headroom: Sequence[HeadroomView] = (),
    ) -> ExplainView:
        return ExplainView(
            time=time.time(),
            node=self._node,
            config_version=self._topology.version,
            api=call.surface.name,
            asked=call.name,
            is_stream=call.is_stream,
            picked=picked,
            error=error.code if error else None,
            message=error.message if error else None,
            key=KeyScopeView(id=call.key.id, models=list(call.key.models)) if call.key else None,
            waiting=waiting,
            plans=list(plans),
            headroom=list(headroom),
        )

    async def _key(self, key_id: str) -> ClientKey:
        key = await read_key(self._store, key_id)
        if key is None:
            raise ModelNotFoundError(f"no client key has the id {key_id!r}", code="key_not_found")
        return key

    def _refusal(self, key: ClientKey | None) -> ModelMeshError | None:
        """What the door would say to the owner of a key."""
        status = key.status(self._snapshot.clock.now_ms()) if key is not None else "active"
        if key is None or status == "active":
            return None
        return AuthenticationRequiredError(f"client key {key.id} is {status}")

    def _waiting(self, plan: Plan, *, is_full: bool) -> WaitingView | None:
        """Whether the call would be held, where its pool rather waits than switches."""
        pool = plan.members[0][0]
        rules = limit_rules(pool)
        if rules is None or rules.action == "switch_model" or not plan.targets:
            return None
        is_queue = rules.action == "queue"
        length = self._queued(pool.id) if is_queue else 0
        is_near = is_near_limit(plan.targets[0].model, rules, self._pipeline.ranker.hints_of(pool))
        reasons = {
            "queue_full": is_queue and length >= rules.queue_size,
            "queue": length > 0,
            "near_limit": is_near,
            "no_room": is_full,
        }
        because = next((reason for reason, holds in reasons.items() if holds), "")
        return WaitingView(
            pool=pool.id,
            action=rules.action,
            waits=because not in ("", "queue_full"),
            because=because,
            max_wait_s=rules.max_wait,
            threshold=rules.threshold,
            length=length,
            size=rules.queue_size if is_queue else None,
        )


def _call(asked: ExplainBody, key: ClientKey | None) -> Call:
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
    body = orjson.dumps(fields)
    return build_call(surface, scope, fields, body=body, request_id=_ID, started=now, key=key)


def _surface(api: str) -> Surface:
    path = "/" + api.strip("/").removeprefix("v1/")
    for surface in SURFACES:
        if path == surface.path:
            return surface
    known = ", ".join(surface.path.lstrip("/") for surface in SURFACES)
    raise RequestError(f"no API is at {api!r}; known are {known}", param="api")
