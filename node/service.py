"""A router node put together: shared state, snapshot, lanes, router and application, and their order of starting and stopping."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import httpx
import structlog

from node.api.application import Application, build_application, health_routes, metrics_route, model_routes
from node.api.auth import ClientDoor, Doorkeeper
from node.api.endpoint import Edge, Endpoint
from node.api.keyring import Keyring
from node.api.models import ModelList
from node.api.once import Once
from node.api.probe import Prober
from node.api.surfaces import SURFACES
from node.batch import DomainBatcher
from node.findings import StoreFindings
from node.leases import LeaseKeeper
from node.observe.cluster import ClusterGauges
from node.observe.decisions import DecisionLog, DecisionMetrics
from node.observe.metrics import Metrics
from node.observe.process import ProcessGauges
from node.observe.request_log import RequestLog
from node.observe.retries import RetryCounters
from node.ops.events import EventFan
from node.ops.routes import OpsParts, ops_routes
from node.panics import PanicWatch
from node.providers.connector import Connector
from node.providers.listing import list_models
from node.routing.budget import RetryBudgets
from node.routing.cursors import Cursors
from node.routing.gatehouse import Gatehouse
from node.routing.gates import Gates
from node.routing.lanes import Lane, build_lane
from node.routing.pipeline import Pipeline
from node.routing.ranking import Facts, Ranker, wants_signals
from node.routing.router import Router
from node.routing.sessions import Sessions
from node.routing.strategies import build_strategies
from node.signals import Signals
from node.snapshot import Snapshot
from node.spool import Spool
from node.terms import TermKeeper
from node.upstream import open_transport
from node.watch import StoreWatch
from shared_state.bus import Bus
from shared_state.client_keys import ClientKeys
from shared_state.clock import ServerClock
from shared_state.events import Event
from shared_state.ledger import DomainLedger
from shared_state.registry import HEARTBEAT_S, NodeInfo, Registry
from shared_state.shapes.listing import ListedModel
from shared_state.store import STORE_ERRORS, Store
from shared_state.topology import Topology

log = structlog.get_logger(__name__)

_FLUSH_DEADLINE_S = 3.0
#: The providers' limits bound the traffic; this only keeps a fault from taking every descriptor.
_CONNECTIONS_PER_ORIGIN = 8192


class NodeService:
    """One router node, without its server.

    Args:
        name: shown to operators; made unique for this process.
        host, port: where it serves, for the registry.
        ops: who may operate it.
        home: this machine's state folder, for what an outage leaves unsettled; None if it has none.
    """

    def __init__(
        self,
        topology: Topology,
        store: Store,
        *,
        name: str,
        host: str,
        port: int,
        ops: Doorkeeper,
        home: Path | None,
    ) -> None:
        config = topology.config
        self.id = f"{name}-{secrets.token_hex(3)}"
        self.topology = topology
        self.store = store
        self.clock = ServerClock()
        self.watch = StoreWatch(store, on_loss=config.redis.on_loss)
        self.snapshot = Snapshot(store, topology, self.watch, clock=self.clock)
        self.findings = StoreFindings(store, self.watch)
        self.registry = Registry(store)
        self.events = EventFan()
        self._keyring = Keyring(ClientKeys(store, config.keys.pepper), self.watch)
        self._bus = Bus(store, on_event=self._on_event, on_gap=self._on_gap)
        self._transport: httpx.AsyncBaseTransport = open_transport(
            config.server.upstream,
            limit_per_origin=_CONNECTIONS_PER_ORIGIN,
            replay_stale=False,
            has_tls=any(p.base_url.startswith("https:") for p in topology.providers.values()),
        )
        self.nodes_seen = 1
        self._ledgers = {
            domain.id: DomainLedger(store, domain, node=self.id, clock=self.clock)
            for domain in topology.domains.values()
        }
        self._connectors = {p.id: Connector(p, self._transport) for p in topology.providers.values()}
        self._spool = Spool(
            home, self.watch, store=f"{store.masked_url} {config.redis.namespace}", node=self.id
        )
        self._batchers = self._build_batchers()
        self._leases = {
            domain: LeaseKeeper(ledger, self.watch, nodes=lambda: self.nodes_seen)
            for domain, ledger in self._ledgers.items()
        }
        self._terms = {
            domain: TermKeeper(ledger, self._leases[domain], self.snapshot, self.watch)
            for domain, ledger in self._ledgers.items()
        }
        self.snapshot.follow(self._ledgers)
        self._ranker = self._build_ranker()
        self.budgets = RetryBudgets(
            store, topology.pools, self.watch, node=self.id, nodes=lambda: self.nodes_seen
        )
        self._gatehouse = self._build_gatehouse()
        self.router = self._build_router()
        self._panics = PanicWatch(store, self.snapshot, self.watch, self.router.faith, node=self.id)
        self.request_log = RequestLog(self.id)
        self.metrics = Metrics(
            self.snapshot,
            self.watch,
            self._batchers,
            self._leases,
            self._terms,
            lambda: self.router.in_flight,
            self.findings,
        )
        self._gauges = ClusterGauges(store, self.snapshot, self.watch)
        self.metrics.add(self._gauges)
        self.decisions = DecisionLog(
            store, self.watch, config.observability.decisions, node=self.id, version=topology.version
        )
        self.metrics.add(DecisionMetrics(self.decisions))
        self.metrics.add(RetryCounters(self.budgets))
        self.metrics.add(ProcessGauges(self._transport))
        self.info = NodeInfo(
            id=self.id,
            host=host,
            port=port,
            pid=os.getpid(),
            started=time.time(),
            state="alive",
            version=version("modelmesh"),
            config_version=topology.version,
            mode=self.watch.mode,
            in_flight=0,
        )
        self.application = self._build_application(ops)
        self.failed = asyncio.Event()
        self._hurry = asyncio.Event()
        self.watch.on_return(self._hurry.set)
        self._tasks: list[asyncio.Task[None]] = []

    def _on_event(self, event: Event) -> None:
        self.snapshot.observe_event(event)
        self._keyring.observe_event(event)
        self.events.publish(event)

    def _on_gap(self) -> None:
        self.snapshot.refresh_all()
        self._keyring.doubt()
        self.events.tell_gap()

    def _build_ranker(self) -> Ranker:
        """The selection stage; only domains whose pools want signals are read for them."""
        topology, strategies = self.topology, build_strategies(self.topology.pools.values())
        wanted = {
            model.domain
            for pool in topology.pools.values()
            if wants_signals(pool, strategies[pool.id])
            for model in pool.models
        }
        self.signals = Signals(
            self.store,
            [domain for domain in topology.domains.values() if domain.id in wanted],
            self.watch,
            clock=self.clock,
            nodes=lambda: self.nodes_seen,
        )
        sessions = Sessions(
            self.store,
            self.watch,
            epoch_of=self.snapshot.epoch_of,
        )
        cursors = Cursors(self.store, self.watch, self.snapshot.current)
        return Ranker(strategies, self.snapshot, Facts(cursors, sessions, self.signals), draw=random.random)

    def _build_batchers(self) -> dict[str, DomainBatcher]:
        def on_reply(ledger: DomainLedger) -> None:
            self.snapshot.observe_epoch(ledger.domain.id, ledger.epoch)

        return {
            domain: DomainBatcher(ledger, self.watch, on_reply=on_reply, shelf=self._spool.shelf(domain))
            for domain, ledger in self._ledgers.items()
        }

    def _build_lanes(self) -> dict[str, Lane]:
        connectors = self._connectors
        return {
            model.id: build_lane(
                model,
                self.topology.providers[model.provider],
                connectors[model.provider],
                self._batchers[model.domain],
                self._leases[model.domain].allowances[model.id],
            )
            for model in self.topology.models.values()
        }

    def _build_gatehouse(self) -> Gatehouse:
        return Gatehouse(
            self.store,
            self.watch,
            clock=self.clock,
            node=self.id,
            nodes=lambda: self.nodes_seen,
            on_loss=self.topology.config.redis.on_loss,
            on_failure=self._on_task_end,
        )

    def _build_router(self) -> Router:
        lanes, reservations = self._build_lanes(), _reservation_ids(self.id)
        on_loss = self.topology.config.redis.on_loss
        gates = Gates(
            {domain.id: self._gatehouse.build(domain) for domain in self.topology.gates.values()},
            lanes,
            of_key=self._gatehouse.of_key,
            watch=self.watch,
            reservations=reservations,
            now_ms=self.clock.now_ms,
            on_loss=on_loss,
        )
        return Router(
            Pipeline(self.snapshot, self._ranker),
            lanes,
            self.watch,
            self.signals,
            self.budgets,
            clock=self.clock,
            reservations=reservations,
            on_loss=on_loss,
            gates=gates,
        )

    def _build_application(self, ops: Doorkeeper) -> Application:
        config = self.topology.config
        door = ClientDoor(
            Doorkeeper(config.proxy.auth.tokens, is_open=True),
            self._keyring,
            is_required=config.keys.required,
            now_ms=self.clock.now_ms,
        )
        once = Once(self.store, self.watch, config.idempotency)
        edge = Edge(
            self.router,
            self.watch,
            door,
            self.request_log,
            self.metrics,
            config.proxy.max_body,
            once,
            self.decisions,
        )
        parts = OpsParts(
            self.id,
            self.store,
            self.topology,
            self.snapshot,
            self.watch,
            self.findings,
            self._ranker,
            self.events,
            Prober(self.router, self.request_log),
            self._list_models,
        )
        models = ModelList(self.topology)
        return build_application(
            {f"/v1{surface.path}": Endpoint(surface, edge) for surface in SURFACES},
            routes=[
                *model_routes(models, door),
                *health_routes(self.readiness),
                metrics_route(self.metrics, ops, refresh=self._gauges.refresh),
                *ops_routes(parts, ops),
            ],
        )

    async def _list_models(self, provider: str) -> list[ListedModel]:
        timeout_s = self.topology.config.discovery.health.timeout
        return await list_models(self._connectors[provider], timeout_s=timeout_s)

    def readiness(self) -> tuple[bool, dict[str, object]]:
        """Whether requests can be served, and what ``/ready`` says about it."""
        is_ready = (
            self.router.is_ready
            and self.info.state == "alive"
            and (self.watch.connected or self.topology.config.redis.on_loss != "closed")
        )
        return is_ready, {
            "mode": self.watch.mode,
            "config_version": self.topology.version,
            "node": self.id,
            "state": self.info.state,
            "nodes": self.nodes_seen,
            "pools": len(self.topology.pools),
            "store": self.findings.brief(),
        }

    async def start(self) -> None:
        """Starts the background work; the node serves as soon as it has seen the shared state once."""
        loops = [
            self.watch.run(),
            self.snapshot.run(),
            self._bus.run(),
            self._keyring.run(),
            self.decisions.run(),
            self.findings.run(),
            self._panics.run(),
            self._beat(),
            self._spool.run({spec.id: self._batchers[spec.domain] for spec in self.topology.models.values()}),
        ]
        loops += [self.signals.run(), self.budgets.run(), *(keeper.run() for keeper in self._terms.values())]
        if self.topology.config.redis.on_loss == "leased":
            loops += [keeper.run() for keeper in self._leases.values()]
        self._tasks = [asyncio.get_running_loop().create_task(loop) for loop in loops]
        for task in self._tasks:
            task.add_done_callback(self._on_task_end)
        self._gatehouse.start()

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("background work failed; the node ends", exc_info=task.exception())
            self.failed.set()

    async def _beat(self) -> None:
        while True:
            if self.watch.connected:
                self.info.mode, self.info.in_flight = self.watch.mode, self.router.in_flight
                try:
                    _, self.nodes_seen = await self.registry.beat(self.info)
                except STORE_ERRORS as error:
                    self.watch.report_failure(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._hurry.wait()
            self._hurry.clear()

    async def announce_drain(self) -> None:
        """Tells the cluster that this node takes no new work."""
        self.info.state = "draining"
        self.events.end()  # readers along would hold the drain up to its deadline
        try:
            await self.registry.beat(self.info)
        except STORE_ERRORS as error:
            self.watch.report_failure(error)

    async def stop(self) -> None:
        """Hands in what is unsettled, leaves the registry, closes connections."""
        try:
            async with asyncio.timeout(_FLUSH_DEADLINE_S):
                await asyncio.gather(*(batcher.flush() for batcher in self._batchers.values()))
                await asyncio.gather(
                    self._gatehouse.leave(), *(ledger.leave() for ledger in self._ledgers.values())
                )
                await self.registry.leave(self.id)
                await self.decisions.flush()
        except STORE_ERRORS as error:
            left = sum(batcher.unsettled for batcher in self._batchers.values()) + self._gatehouse.unsettled
            log.warning(
                "left without goodbye; reservations are charged by their lease",
                unsettled=left,
                error=str(error),
            )
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, self._gatehouse.stop(), return_exceptions=True)
        self.request_log.flush()
        await self._transport.aclose()
        await self.store.aclose()


def _reservation_ids(node: str) -> Iterator[str]:
    return (f"{node}.{number:x}" for number in itertools.count(1))
