"""The routes that are served without the framework, and what stands behind each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import orjson
from starlette.types import ASGIApp, Receive, Scope

from node.api.endpoint import Edge, Endpoint
from node.api.once import Claim
from node.api.reply import AsgiReply
from node.api.surfaces import COUNT, SURFACES
from node.call import Call, Trail


def endpoints(edge: Edge) -> Mapping[str, ASGIApp]:
    """``/v1`` path -> ASGI callable for POST."""
    # Where nobody is chosen there is no decision to be recorded.
    counting = CountEndpoint(COUNT, replace(edge, decisions=None))
    completing = {f"/v1{surface.path}": Endpoint(surface, edge) for surface in SURFACES}
    return {**completing, f"/v1{COUNT.path}": counting}


class CountEndpoint(Endpoint):
    """Answers how many tokens a request has; a key for repeats changes nothing, for it may be asked as often as one likes."""

    async def _serve(
        self,
        scope: Scope,
        call: Call,
        claim: Claim | None,
        receive: Receive,
        reply: AsgiReply,
        trail: Trail,
    ) -> None:
        tokens = await self._edge.router.counter.count(call)
        await reply.whole(200, b"application/json", orjson.dumps({"input_tokens": tokens}), trail)
