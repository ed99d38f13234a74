"""The operators' API: what is going on, and orders to models and providers. Behind the admin token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from node.api.auth import Doorkeeper
from node.findings import StoreFindings
from node.ops.reports import Reports
from node.ops.schema import OrderBody, OrderView
from node.snapshot import Snapshot
from node.watch import StoreWatch
from shared_state.domains import Kind, order
from shared_state.errors import ModelNotFoundError, RequestError, StateUnavailableError
from shared_state.store import STORE_ERRORS, Store
from shared_state.topology import Topology

_Handler = Callable[[Request], Awaitable[Response]]
_MOST_BODY_BYTES = 10_000


class _View(Response):
    media_type = "application/json"

    def __init__(self, view: BaseModel) -> None:
        super().__init__(view.model_dump_json().encode())


@dataclass(frozen=True, slots=True)
class OpsParts:
    """What the operators' API looks at and acts on; ``node`` signs its orders."""

    node: str
    store: Store
    topology: Topology
    snapshot: Snapshot
    watch: StoreWatch
    findings: StoreFindings


class Ops:
    """Handlers of the operators' API of one node."""

    def __init__(self, parts: OpsParts, doorkeeper: Doorkeeper) -> None:
        self._parts = parts
        self._doorkeeper = doorkeeper
        self._reports = Reports(parts.store, parts.topology, parts.snapshot, parts.watch, parts.findings)

    def routes(self) -> list[BaseRoute]:
        """All routes under ``/ops``."""
        reports = self._reports

        async def listing(name: str) -> bytes:
            status = await reports.status()
            return status.model_dump_json(include={name}).encode()

        def part(name: str) -> _Handler:
            async def show(request: Request) -> Response:
                return Response(await listing(name), media_type="application/json")

            return show

        async def status(request: Request) -> Response:
            return _View(await reports.status())

        async def books(request: Request) -> Response:
            return _View(await reports.books())

        views: dict[str, _Handler] = {"status": status, "books": books}
        views.update({name: part(name) for name in ("nodes", "pools", "models", "providers")})
        return [
            *(Route(f"/ops/{name}", self._guarded(handler)) for name, handler in views.items()),
            *(
                self._order_route(kind, action)
                for kind in ("model", "provider")
                for action in ("deactivate", "activate")
            ),
        ]

    def _guarded(self, handler: _Handler) -> _Handler:
        async def checked(request: Request) -> Response:
            self._doorkeeper.check(request.scope)
            try:
                return await handler(request)
            except STORE_ERRORS as error:
                self._parts.watch.report_failure(error)
                raise StateUnavailableError("the shared state is away", retry_after_s=1.0) from error

        return checked

    def _order_route(self, kind: str, action: str) -> Route:
        async def give(request: Request) -> Response:
            return _View(await self._give(request, kind, action))  # type: ignore[arg-type]

        return Route(f"/ops/{kind}s/{{name:path}}/{action}", self._guarded(give), methods=["POST"])

    async def _give(
        self, request: Request, kind: Kind, action: Literal["deactivate", "activate"]
    ) -> OrderView:
        name = request.path_params["name"]
        topology = self._parts.topology
        known = topology.models.get(name) if kind == "model" else topology.providers.get(name)
        if known is None:
            raise ModelNotFoundError(f"no {kind} is called {name!r}")
        body = await _order_body(request)
        done = await order(
            self._parts.store,
            known.domain,
            kind=kind,
            name=name,
            action=action,
            reason=body.reason,
            for_s=body.for_s or 0,
            node=self._parts.node,
        )
        until = done.until_ms / 1000 if done.until_ms else None
        return OrderView(id=name, status=done.status, reason=done.reason, until=until)


def ops_routes(parts: OpsParts, doorkeeper: Doorkeeper) -> list[BaseRoute]:
    """The operators' API of a node."""
    return Ops(parts, doorkeeper).routes()


async def _order_body(request: Request) -> OrderBody:
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > _MOST_BODY_BYTES:
            raise RequestError("the body of an order is small")
    try:
        return OrderBody.model_validate_json(raw or b"{}")
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors())
        raise RequestError(f"the order was not understood: {faults}") from None
