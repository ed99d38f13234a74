"""A router node put together: what lives as long as the process, the generation that serves, and their order of starting and stopping."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO

from node.api.application import Front
from node.api.auth import Doorkeeper
from node.core import Node, build_core
from node.following import Follower
from node.generation import Generation
from node.ops.configuration import ConfigDesk
from node.panics import PanicWatch
from node.renewal import SecretRenewal
from node.snapshot import Snapshot
from node.spool import Spool
from node.watch import StoreWatch
from shared_state.blueprints import Blueprints
from shared_state.bus import Bus
from shared_state.cancellation import end_all
from shared_state.client_keys import ClientKeys
from shared_state.clock import ServerClock
from shared_state.events import Event
from shared_state.ledger import DomainLedger
from shared_state.logs import get_logger
from shared_state.registry import HEARTBEAT_S, NodeInfo, Registry
from shared_state.store import STORE_ERRORS, Store
from shared_state.topology import Topology
from shared_state.versions import Version, Versions

log = get_logger(__name__)

_FLUSH_DEADLINE_S = 3.0


class NodeService:
    """One router node, without its server.

    Args:
        topology: what the process's own file comes to.
        blueprints: what versions come to here.
        name: shown to operators; made unique for this process.
        host, port: where it serves, for the registry.
        ops: who may operate it.
        home: this machine's state folder, for what an outage leaves unsettled; None if it has none.
        request_lines: where the request log goes; None: to standard error.

    Attributes:
        failed: set when background work has failed, with the reason in `fault`.
    """

    def __init__(
        self,
        topology: Topology,
        store: Store,
        blueprints: Blueprints,
        *,
        name: str,
        host: str,
        port: int,
        ops: Doorkeeper,
        home: Path | None,
        request_lines: IO[bytes] | None = None,
    ) -> None:
        config = topology.config
        self.id = f"{name}-{secrets.token_hex(3)}"
        self.store = store
        self.nodes_seen = 1
        self.watch = StoreWatch(store, on_loss=config.redis.on_loss)
        self.registry = Registry(store)
        self.info = self._introduce(topology, host, port)
        self.failed = asyncio.Event()
        self.fault: BaseException | None = None
        self._request_lines = request_lines
        self._hurry = asyncio.Event()
        self.watch.on_return(self._hurry.set)
        self._bus = Bus(store, on_event=self._on_event, on_gap=self._on_gap)
        self._spool = Spool(
            home, self.watch, store=f"{store.masked_url} {config.redis.namespace}", node=self.id
        )
        versions = Versions(store, node=self.id)
        self._follower = Follower(
            versions, blueprints, self.watch, adopt=self._adopt, info=self.info, tell=self._hurry.set
        )
        self._renewal = SecretRenewal(
            blueprints, self._follower, current=lambda: self.generation.topology, draw=random.random
        )
        desk = ConfigDesk(versions, self.registry, blueprints, self._follower, store=store, node=self.id)
        first = Snapshot(store, topology, self.watch, clock=ServerClock())
        self.core = build_core(self._as_seen_by_parts(desk, ops), topology, first)
        self.generation = Generation(self.core, topology, first, number=0)
        self._panics = PanicWatch(store, first, self.watch, self.generation.router.faith, node=self.id)
        #: Those with calls under way, the one that serves among them.
        self._living = [self.generation]
        self.application = Front(self.generation.front)
        self._tasks: list[asyncio.Task[None]] = []
        self._endings: set[asyncio.Task[None]] = set()

    def _introduce(self, topology: Topology, host: str, port: int) -> NodeInfo:
        return NodeInfo(
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

    def _as_seen_by_parts(self, desk: ConfigDesk, ops: Doorkeeper) -> Node:
        return Node(
            info=self.info,
            store=self.store,
            watch=self.watch,
            spool=self._spool,
            ops=ops,
            desk=desk,
            nodes=lambda: self.nodes_seen,
            in_flight=lambda: self.in_flight,
            epoch_of=lambda model: self.generation.snapshot.epoch_of(model),
            readiness=self.readiness,
            on_reply=self._on_reply,
            on_failure=self._on_task_end,
            request_lines=self._request_lines,
        )

    @property
    def running(self) -> Version | None:
        """The version that it runs; None: its own file."""
        return self._follower.running

    @property
    def in_flight(self) -> int:
        """Calls under way, whatever they began in."""
        return sum(generation.router.in_flight for generation in self._living)

    # -- news

    def _on_reply(self, ledger: DomainLedger) -> None:
        for generation in self._living:
            generation.snapshot.observe_epoch(ledger.domain.id, ledger.epoch)

    def _on_event(self, event: Event) -> None:
        for generation in self._living:
            generation.snapshot.observe_event(event)
        self.core.keyring.observe_event(event)
        self._follower.observe_event(event)
        self._renewal.observe_event(event)
        self.core.events.publish(event)

    def _on_gap(self) -> None:
        for generation in self._living:
            generation.snapshot.refresh_all()
        self.core.keyring.doubt()
        self.core.events.tell_gap()

    # -- configurations

    async def _adopt(self, version: Version, topology: Topology) -> None:
        """Runs another version from the moment on at which its view is complete; nobody waits for it."""
        started, old, config = time.perf_counter(), self.generation, topology.config
        snapshot = old.snapshot.succeed(topology)
        new = Generation(self.core, topology, snapshot, number=version.number)
        self._living.append(new)
        new.start()
        await snapshot.is_complete.wait()
        if config.keys.pepper != old.topology.config.keys.pepper:
            self.core.keyring.follow(ClientKeys(self.store, config.keys.pepper))
        self.generation, self.application.application = new, new.front
        self.core.metrics.look_at(snapshot)
        self.core.gauges.look_at(snapshot)
        self._panics.follow(snapshot, new.router.faith)
        self.info.config_version, self.info.config_number = topology.version, version.number
        took_ms = round((time.perf_counter() - started) * 1000)
        log.info("configuration changed", number=version.number, version=topology.version, took_ms=took_ms)
        ending = asyncio.get_running_loop().create_task(self._retire(old))
        self._endings.add(ending)
        ending.add_done_callback(self._note_ending)

    def _note_ending(self, ending: asyncio.Task[None]) -> None:
        self._endings.discard(ending)
        if not ending.cancelled() and (error := ending.exception()) is not None:
            log.error("a configuration was not let go of", exc_info=error)

    async def _retire(self, old: Generation) -> None:
        """Waits for the last call of a generation; what nobody routes to any more is handed in."""
        await old.end()
        self._living.remove(old)
        used = {domain for generation in self._living for domain in generation.topology.domains}
        await self.core.offices.retire(old.topology.domains.keys() - used)

    def renew_secrets(self) -> None:
        """Has the secrets read again."""
        self._renewal.hurry()

    def readiness(self) -> tuple[bool, dict[str, object]]:
        """Whether requests can be served, and what ``/ready`` says about it."""
        generation = self.generation
        is_ready = (
            generation.router.is_ready
            and self.info.state == "alive"
            and (self.watch.connected or self.core.on_loss != "closed")
        )
        return is_ready, {
            "mode": self.watch.mode,
            "config_version": generation.topology.version,
            "config_number": generation.number,
            "node": self.id,
            "state": self.info.state,
            "nodes": self.nodes_seen,
            "pools": len(generation.topology.pools),
            "store": self.core.findings.brief(),
        }

    # -- the process

    async def start(self) -> None:
        """Starts the background work; the node serves as soon as it has seen the shared state once."""
        core = self.core
        loops = [
            self.watch.run(),
            self._bus.run(),
            core.keyring.run(),
            core.decisions.run(),
            self.core.findings.run(),
            self._panics.run(),
            core.budgets.run(),
            self._beat(),
            self._follower.run(),
            self._renewal.run(),
            self._hand_in(),
        ]
        self._tasks = [asyncio.get_running_loop().create_task(loop) for loop in loops]
        for task in self._tasks:
            task.add_done_callback(self._on_task_end)
        core.offices.start()
        core.gatehouse.start()
        self._tasks.append(asyncio.get_running_loop().create_task(self._begin()))

    async def _begin(self) -> None:
        """The process's own file is run only once it is known that there is no version."""
        await self._follower.looked.wait()
        if not self.generation.is_started:
            self.generation.start()

    async def _hand_in(self) -> None:
        """What dead nodes have left on disk is of the cluster's configuration, which has to be known for it."""
        await self._follower.looked.wait()
        await self._spool.run(self.core.offices.outboxes)

    async def until_ready(self) -> None:
        """Waits until the shared state was seen once."""
        await self._follower.looked.wait()
        await self.generation.snapshot.is_complete.wait()

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("background work failed; the node ends", exc_info=task.exception())
            self.fault = self.fault or task.exception()
            self.failed.set()

    async def _beat(self) -> None:
        while True:
            if self.watch.connected:
                self.info.mode, self.info.in_flight = self.watch.mode, self.in_flight
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
        self.core.events.end()  # readers along would hold the drain up to its deadline
        try:
            await self.registry.beat(self.info)
        except STORE_ERRORS as error:
            self.watch.report_failure(error)

    async def stop(self) -> None:
        """Hands in what is unsettled, leaves the registry, closes connections."""
        core = self.core
        try:
            async with asyncio.timeout(_FLUSH_DEADLINE_S):
                await asyncio.gather(core.offices.leave(), core.gatehouse.leave())
                await self.registry.leave(self.id)
                await core.decisions.flush()
        except STORE_ERRORS as error:
            log.warning(
                "left without goodbye; reservations are charged by their lease",
                unsettled=core.offices.unsettled + core.gatehouse.unsettled,
                error=str(error),
            )
        await asyncio.gather(
            end_all([*self._tasks, *self._endings]), core.offices.stop(), core.gatehouse.stop()
        )
        await asyncio.gather(*(generation.stop() for generation in self._living))
        await asyncio.to_thread(core.request_logs.close)
        await core.transport.aclose()
        await self.store.aclose()
