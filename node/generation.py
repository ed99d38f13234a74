"""What belongs to one configuration, on top of what outlives it.

A new version gets a generation of its own beside the one that serves. It takes over once it has seen the state of everything that it routes
to; calls that are under way go to their end in the generation that they began in.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

from node.api.application import Application, build_application, health_routes, metrics_route, model_routes
from node.api.auth import ClientDoor, Doorkeeper
from node.api.endpoint import Edge
from node.api.models import ModelList
from node.api.once import Once
from node.api.origins import Origins, open_to_pages
from node.api.probe import Prober
from node.api.routes import endpoints
from node.core import Core
from node.observe.decisions import DecisionLog
from node.observe.tracing import open_tracing
from node.ops.routes import OpsParts, ops_routes
from node.providers.connector import Connector
from node.providers.listing import list_models
from node.routing.gates import Gates
from node.routing.lanes import Lane, build_lane
from node.routing.pipeline import Pipeline
from node.routing.ranking import Facts, Ranker, reads_signals
from node.routing.router import Router
from node.routing.slowness import Slowness, watched
from node.routing.strategies import Strategy, build_strategies
from node.signals import Signals
from node.snapshot import Snapshot
from node.ui.routes import ui_routes
from shared_state.cancellation import end_all
from shared_state.shapes.listing import ListedModel
from shared_state.topology import Topology


class Generation:
    """One configuration at work.

    Args:
        snapshot: the view of this topology.
        number: of the version; 0 if it is the process's own file.
    """

    def __init__(self, core: Core, topology: Topology, snapshot: Snapshot, *, number: int) -> None:
        self.topology = topology
        self.snapshot = snapshot
        self.number = number
        self._core = core
        core.offices.adopt(topology.domains.values(), snapshot)
        core.budgets.follow(topology.pools)
        snapshot.follow(core.offices.ledgers)
        self._connectors = {p.id: Connector(p, core.transport) for p in topology.providers.values()}
        strategies = build_strategies(topology.pools.values())
        self._signals = self._build_signals(strategies)
        self._slowness = Slowness(core.store, watched(topology.pools.values()), core.watch, nodes=core.nodes)
        facts = Facts(core.cursors, core.sessions, self._signals)
        self._ranker = Ranker(strategies, snapshot, facts, draw=random.random)
        self._request_log = core.request_logs.open(topology.config)
        self._tracing = open_tracing(topology, node=core.id)
        self.router = self._build_router()
        self.application = self._build_application()
        self.front = open_to_pages(self.application, topology.config.proxy.cors.origins)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_started(self) -> bool:
        """Whether its view is kept fresh."""
        return bool(self._tasks)

    def start(self) -> None:
        """Begins to follow the state of what it routes to."""
        loops = [self.snapshot.run(), self._signals.run()]
        if self._slowness.is_wanted:
            loops.append(self._slowness.run())
        for loop in loops:
            task = asyncio.get_running_loop().create_task(loop)
            task.add_done_callback(self._core.on_failure)
            self._tasks.append(task)

    async def end(self) -> None:
        """Waits for its last call, and lets go; for a generation that gets no more calls."""
        await self.application.until_quiet()
        await self.stop()

    async def stop(self) -> None:
        """Lets go at once."""
        await end_all(self._tasks)
        self.snapshot.close()
        self._core.request_logs.release(self._request_log)
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)

    def _build_signals(self, strategies: Mapping[str, Strategy]) -> Signals:
        """Only domains whose pools want signals are read for them."""
        core, topology = self._core, self.topology
        wanted = {
            model.domain
            for pool in topology.pools.values()
            if reads_signals(pool, strategies[pool.id])
            for model in pool.models
        }
        domains = [domain for domain in topology.domains.values() if domain.id in wanted]
        return Signals(core.store, domains, core.watch, clock=core.clock, nodes=core.nodes)

    def _build_lanes(self) -> dict[str, Lane]:
        offices = self._core.offices
        return {
            model.id: build_lane(
                model,
                self.topology.providers[model.provider],
                self._connectors[model.provider],
                offices.batchers[model.domain],
                offices.leases[model.domain].allowances[model.id],
            )
            for model in self.topology.models.values()
        }

    def _build_router(self) -> Router:
        core, lanes = self._core, self._build_lanes()
        gates = Gates(
            {domain.id: core.gatehouse.build(domain) for domain in self.topology.gates.values()},
            lanes,
            of_key=core.gatehouse.of_key,
            watch=core.watch,
            reservations=core.reservations,
            now_ms=core.clock.now_ms,
            on_loss=core.on_loss,
        )
        return Router(
            Pipeline(self.snapshot, self._ranker),
            lanes,
            core.watch,
            self._signals,
            core.budgets,
            self._slowness,
            clock=core.clock,
            reservations=core.reservations,
            on_loss=core.on_loss,
            gates=gates,
        )

    def _build_application(self) -> Application:
        core, config = self._core, self.topology.config
        origins = Origins(config.proxy.cors.origins)
        door = ClientDoor(
            Doorkeeper(config.proxy.auth.tokens, is_open=True),
            core.keyring,
            is_required=config.keys.required,
            now_ms=core.clock.now_ms,
            origins=origins,
        )
        ops = core.ops.known_to(origins)
        return build_application(
            endpoints(self._edge(door)),
            routes=[
                *model_routes(ModelList(self.topology), door),
                *health_routes(core.readiness),
                metrics_route(core.metrics, ops, refresh=core.gauges.refresh),
                *ops_routes(self._ops_parts(), ops),
                *ui_routes(check=ops.check_name),
            ],
        )

    def _edge(self, door: ClientDoor) -> Edge:
        core, config = self._core, self.topology.config
        decisions = DecisionLog(
            core.store,
            core.watch,
            config.observability.decisions,
            node=core.id,
            version=self.topology.version,
            number=self.number,
            queue=core.decisions,
        )
        once = Once(core.store, core.watch, config.idempotency)
        return Edge(
            self.router,
            core.watch,
            door,
            self._request_log,
            core.metrics,
            config.proxy.max_body,
            once,
            decisions,
            self._tracing,
        )

    def _ops_parts(self) -> OpsParts:
        core = self._core
        return OpsParts(
            core.id,
            core.store,
            self.topology,
            self.snapshot,
            core.watch,
            core.findings,
            self._ranker,
            core.events,
            Prober(self.router, self._request_log),
            self._list_models,
            core.desk,
            self.router.queued,
        )

    async def _list_models(self, provider: str) -> list[ListedModel]:
        timeout_s = self.topology.config.discovery.health.timeout
        return await list_models(self._connectors[provider], timeout_s=timeout_s)
