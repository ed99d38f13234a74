"""What would become of a request now: the stages without sending, taking or moving anything, and the room of each candidate."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

import orjson
from starlette.types import Scope

from node.api.endpoint import build_call, check_name
from node.api.surfaces import SURFACES
from node.call import Call, Surface, Trail
from node.observe.record import plans_of
from node.ops.room import Rooms
from node.routing.pipeline import Pipeline, Plan
from node.routing.ranking import Ranker
from node.snapshot import Snapshot
from shared_state.errors import ModelMeshError, RequestError
from shared_state.shapes.decision import ExplainBody, ExplainView, PlanView
from shared_state.store import Store
from shared_state.topology import Topology

_ID: Final = "explain"


class Explainer:
    """Plans without consequences.

    Args:
        ranker: the node's own; it is asked through a copy that moves nothing.
    """

    def __init__(
        self, store: Store, topology: Topology, snapshot: Snapshot, ranker: Ranker, *, node: str
    ) -> None:
        self._rooms = Rooms(store, topology)
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
        headroom = await self._rooms.of(call, plan, now_ms=self._snapshot.clock.now_ms())
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
