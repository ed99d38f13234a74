"""The operators' API: what is going on, and orders to models and providers. Behind the admin token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Final, Literal

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from node.api.auth import Doorkeeper
from node.api.probe import Prober
from node.findings import StoreFindings
from node.ops.configuration import ConfigDesk
from node.ops.decisions import DecisionDesk
from node.ops.events import EventFan, EventStream, count_after
from node.ops.keys import KeyOrders
from node.ops.openapi import describe
from node.ops.operations import Handler, Operation, ViewResponse, read_query, read_small_body
from node.ops.reports import Reports
from node.ops.rotation import Rotation
from node.routing.ranking import Ranker
from node.snapshot import Snapshot
from node.watch import StoreWatch
from shared_state.client_keys import ClientKeys
from shared_state.domains import Kind, order
from shared_state.errors import ModelNotFoundError, StateUnavailableError
from shared_state.shapes.listing import ListedModel, ListingView
from shared_state.shapes.statistics import StatsQuery, StatsView
from shared_state.shapes.status import (
    BooksView,
    EventsQuery,
    EventView,
    ModelsView,
    NodesView,
    OrderBody,
    OrderView,
    PoolsView,
    ProbeBody,
    ProbeView,
    ProvidersView,
    RotateBody,
    RotationView,
    StatusView,
)
from shared_state.shapes.usage import UsageView
from shared_state.store import STORE_ERRORS, Store
from shared_state.topology import Topology

_PARTS: Final[dict[str, type[BaseModel]]] = {
    "nodes": NodesView,
    "pools": PoolsView,
    "models": ModelsView,
    "providers": ProvidersView,
}


Lister = Callable[[str], Awaitable[list[ListedModel]]]


async def _no_lister(provider: str) -> list[ListedModel]:
    raise ModelNotFoundError(f"this node does not talk to {provider!r}")


@dataclass(frozen=True, slots=True)
class OpsParts:
    """What the operators' API looks at and acts on; ``node`` signs its orders, ``list_models`` asks a provider, ``queued`` says
    how many requests wait for a pool on this node."""

    node: str
    store: Store
    topology: Topology
    snapshot: Snapshot
    watch: StoreWatch
    findings: StoreFindings
    ranker: Ranker
    events: EventFan = field(default_factory=EventFan)
    prober: Prober | None = None
    list_models: Lister = _no_lister
    desk: ConfigDesk | None = None
    queued: Callable[[str], int] = lambda pool: 0


class Ops:
    """Handlers of the operators' API of one node."""

    def __init__(self, parts: OpsParts, doorkeeper: Doorkeeper) -> None:
        self._parts = parts
        self._doorkeeper = doorkeeper
        self._reports = Reports(parts.store, parts.topology, parts.snapshot, parts.watch, parts.findings)
        self._desk = DecisionDesk(
            parts.store,
            parts.topology,
            parts.snapshot,
            parts.ranker,
            node=parts.node,
            archive=parts.desk,
            queued=parts.queued,
        )
        self._keys = KeyOrders(
            ClientKeys(parts.store, parts.topology.config.keys.pepper),
            parts.topology,
            windows=self._reports.gate_windows,
            node=parts.node,
            now_ms=parts.snapshot.clock.now_ms,
        )

    def routes(self) -> list[BaseRoute]:
        """All routes under ``/ops``."""
        operations = [*self._views(), *self._orders(), *self._keys.operations(), *self._desk.operations()]
        operations.append(self._rotation())
        if self._parts.desk is not None:
            operations += self._parts.desk.operations()
        return [
            Route(f"/ops/{op.path}", self._guarded(op.handler), methods=[op.method])
            for op in [*operations, _description(operations)]
        ]

    def _views(self) -> list[Operation]:
        reports = self._reports

        async def status(request: Request) -> Response:
            return ViewResponse(await reports.status())

        async def books(request: Request) -> Response:
            return ViewResponse(await reports.books())

        async def usage(request: Request) -> Response:
            return ViewResponse(await reports.usage())

        async def stats(request: Request) -> Response:
            return ViewResponse(await reports.statistics(read_query(request, StatsQuery)))

        return [
            Operation(
                "events",
                self._events,
                "What happened lately, then what happens: server-sent events, each in this shape. With `last-event-id` it goes on after that one.",
                EventView,
                query=EventsQuery,
                media="text/event-stream",
            ),
            Operation("stats", stats, "What went through in the last minutes.", StatsView, query=StatsQuery),
            Operation("usage", usage, "What is used of every quota, and when it runs dry.", UsageView),
            Operation("status", status, "Everything at a glance.", StatusView),
            Operation("books", books, "The books: every balance.", BooksView),
            *(self._part(name, shape) for name, shape in _PARTS.items()),
            Operation(
                "providers/{name:path}/models",
                self._listing,
                "What a provider lists at this moment.",
                ListingView,
                asks_provider=True,
            ),
        ]

    async def _listing(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._parts.topology.providers:
            raise ModelNotFoundError(f"no provider is called {name!r}")
        return ViewResponse(ListingView(provider=name, models=await self._parts.list_models(name)))

    async def _events(self, request: Request) -> Response:
        asked = read_query(request, EventsQuery)
        fan, newest = self._parts.events, self._reports.news
        feed = fan.open()  # before the lists are read, so that nothing falls in between
        try:
            known = await newest()
        except BaseException:
            fan.close(feed)
            raise
        follow = asked.follow and request.method == "GET"
        missed = count_after(known, request.headers.get("last-event-id", ""))
        last = asked.last if missed is None else missed
        return EventStream(fan, feed, newest, known, last=last, follow=follow)

    def _part(self, name: str, shape: type[BaseModel]) -> Operation:
        async def show(request: Request) -> Response:
            status = await self._reports.status()
            return Response(status.model_dump_json(include={name}), media_type="application/json")

        return Operation(name, show, (shape.__doc__ or "").strip(), shape)

    def _orders(self) -> list[Operation]:
        return [
            self._order(kind, action)
            for kind in ("model", "provider")
            for action in ("deactivate", "activate")
        ] + ([] if self._parts.prober is None else [self._probe(self._parts.prober)])

    def _probe(self, prober: Prober) -> Operation:
        async def probe(request: Request) -> Response:
            name = request.path_params["name"]
            model = self._parts.topology.models.get(name)
            if model is None:
                raise ModelNotFoundError(f"no model is called {name!r}")
            body = await read_small_body(request, ProbeBody)
            return ViewResponse(await prober.probe(model, is_startup=body.startup, within_s=body.within))

        return Operation(
            "models/{name:path}/probe",
            probe,
            "Send a model one tiny request and say how it went.",
            ProbeView,
            method="POST",
            body=ProbeBody,
        )

    def _guarded(self, handler: Handler) -> Handler:
        async def checked(request: Request) -> Response:
            self._doorkeeper.check(request.scope)
            try:
                return await handler(request)
            except STORE_ERRORS as error:
                self._parts.watch.report_failure(error)
                raise StateUnavailableError("the shared state is away", retry_after_s=1.0) from error

        return checked

    def _order(self, kind: str, action: str) -> Operation:
        async def give(request: Request) -> Response:
            return ViewResponse(await self._give(request, kind, action))  # type: ignore[arg-type]

        return Operation(
            f"{kind}s/{{name:path}}/{action}",
            give,
            f"{action.capitalize()} a {kind}.",
            OrderView,
            method="POST",
            body=OrderBody,
        )

    def _rotation(self) -> Operation:
        parts = self._parts
        rotation = Rotation(parts.store, parts.snapshot, node=parts.node)

        async def rotate(request: Request) -> Response:
            name = request.path_params["name"]
            pool = parts.topology.pools.get(name)
            if pool is None:
                raise ModelNotFoundError(f"no pool is called {name!r}", code="pool_not_found")
            body = await read_small_body(request, RotateBody)
            return ViewResponse(await rotation.rotate(pool, parts.ranker.strategies[name], body))

        return Operation(
            "pools/{name:path}/rotate",
            rotate,
            "Move a pool on to its next model.",
            RotationView,
            method="POST",
            body=RotateBody,
        )

    async def _give(
        self, request: Request, kind: Kind, action: Literal["deactivate", "activate"]
    ) -> OrderView:
        name = request.path_params["name"]
        topology = self._parts.topology
        known = topology.models.get(name) if kind == "model" else topology.providers.get(name)
        if known is None:
            raise ModelNotFoundError(f"no {kind} is called {name!r}")
        body = await read_small_body(request, OrderBody)
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


def _description(operations: Sequence[Operation]) -> Operation:
    """The description of the API, which describes itself too; made when it is first asked for."""

    @cache
    def document() -> bytes:
        return orjson.dumps(describe([*operations, itself], version=version("modelmesh")))

    async def show(request: Request) -> Response:
        return Response(document(), media_type="application/json")

    itself = Operation("openapi.json", show, "This description.", None)
    return itself
