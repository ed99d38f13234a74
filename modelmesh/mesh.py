"""The whole router inside another program: a node like any other, without a port.

It belongs to the event loop in which it was initialized. The program's signals, logging, event loop policy and collector stay as they are.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import socket
import weakref
from collections.abc import Awaitable
from contextlib import suppress
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any, Final, Self, cast

from modelmesh.bridge import Bridge, SyncTransport
from modelmesh.embedded import EmbeddedStore
from modelmesh.errors import StartError
from modelmesh.extras import require_openai
from modelmesh.in_process import Calls, InProcessTransport
from modelmesh.operator import Operator
from modelmesh.ops_client import OpsClient
from modelmesh.plan import Configuration, Plan, make_plan
from modelmesh.request_lines import RequestLines
from node.api.auth import Doorkeeper
from node.service import NodeService
from shared_state.errors import ModelMeshError
from shared_state.store import Store
from shared_state.topology import Topology

if TYPE_CHECKING:
    import openai

_ORIGIN: Final = "http://in-process"
_RESTART_S: Final = 5.0
#: Beyond what the scheduler allows itself for its last jobs.
_SCHEDULER_S: Final = 15.0
#: Stands in ids, and in the addresses by which a scheduler at home reaches the node.
_SANE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_log = logging.getLogger(__name__)
_alive: weakref.WeakSet[ModelMesh] = weakref.WeakSet()


class ModelMesh(Operator):
    """A router node in this process, and unless told otherwise a scheduler beside it.

    Made by `initialize`; ends with `close`, or as an asynchronous context manager. A node that loses its background work
    closes itself, and its clients are refused from then on.
    """

    def __init__(self, plan: Plan, *, name: str) -> None:
        self._plan = plan
        self._embedded = None if plan.redis_url else _embedded_store(plan)
        self._name = name
        self._service: NodeService | None = None
        self._calls: Calls | None = None
        self._stopping = asyncio.Event()
        self._scheduler: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def initialize(
        cls,
        config: Configuration | None = None,
        *,
        redis: str | None = None,
        scheduler: bool = True,
        name: str = "program",
        ready_within: float = 10.0,
    ) -> Self:
        """A mesh in the running event loop.

        Args:
            config: a file, a mapping as a file would hold it, or a `MeshConfig`; None: ``MODELMESH_CONFIG``, or else the
                providers whose keys the environment holds.
            redis: URL of the shared state; None: ``MODELMESH_REDIS_URL``, or the configuration's, or else an embedded
                Valkey in the state folder, shared with a `modelmesh serve` that runs there.
            scheduler: run a scheduler as well; of all in the cluster one leads.
            name: shown to operators.
            ready_within: how long the shared state may take to be seen once, in seconds.

        Raises:
            ConfigurationError: with every fault.
            ValueError: the name is none.
            FrontDoorError: the store cannot be used or does not answer. Whatever is raised, nothing is left behind.
        """
        if not _SANE_NAME.fullmatch(name):
            raise ValueError(f"name: {name!r} must be letters, digits, '.', '_' and '-', at most 64 of them")
        return await cls.open(
            make_plan(config, redis=redis), scheduler=scheduler, name=name, ready_within=ready_within
        )

    @classmethod
    async def open(cls, plan: Plan, *, scheduler: bool, name: str, ready_within: float) -> Self:
        """A mesh by a plan that is made already."""
        mesh = cls(plan, name=name)
        try:
            await mesh._begin(ready_within)
            if scheduler:
                mesh._scheduler = asyncio.create_task(mesh._keep_scheduler(), name="modelmesh scheduler")
        except BaseException:
            await mesh.close()
            raise
        _alive.add(mesh)
        return mesh

    @property
    def id(self) -> str:
        """Of the node, as in the registry."""
        return self._node.id

    @property
    def base_url(self) -> str:
        """What clients with a transport of this mesh take for its address."""
        return f"{_ORIGIN}/v1"

    @property
    def topology(self) -> Topology:
        """What it runs now."""
        return self._node.generation.topology

    @property
    def overruled_by(self) -> int:
        """The version of the configuration that is in force in the cluster in place of its own; 0 if it runs its own."""
        running = self._node.running
        is_own = running is None or self._plan.blueprints.is_own(running.document)
        return 0 if running is None or is_own else running.number

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more calls."""
        return self._closing is not None

    def client(self, **options: Any) -> openai.AsyncOpenAI:
        """An asynchronous OpenAI client of this mesh, for the event loop that it was initialized in.

        Args:
            options: those of `openai.AsyncOpenAI`; ``api_key`` is a client key or token of this mesh.
        """
        require_openai()
        from modelmesh.clients import async_client

        return async_client(self.transport(), base_url=self.base_url, **options)

    def sync_client(self, **options: Any) -> openai.OpenAI:
        """An OpenAI client of this mesh for all other threads.

        Args:
            options: those of `openai.OpenAI`.
        """
        require_openai()
        import openai

        from modelmesh.clients import sync_client

        return sync_client(self.sync_transport(), base_url=self.base_url, kind=openai.OpenAI, **options)

    async def close(self, *, drain: float | None = None) -> None:
        """Let calls finish, hand in the books, end everything. May be called again, and from several tasks.

        Args:
            drain: how long calls may take to finish, in seconds; None: ``server.drain``. What still runs then is cut off.
        """
        if self._closing is None:
            if self._calls is not None:
                self._calls.refuse("this mesh is closed")
            self._closing = asyncio.create_task(self._end(drain), name="modelmesh close")
        await asyncio.shield(self._closing)

    shutdown = close

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- the beginning

    async def _begin(self, ready_within: float) -> None:
        if self._embedded is not None:
            await self._embedded.start()
            await self._embedded.wait_ready()
        self._service = service = self._build_service()
        await service.start()
        self._calls = Calls(service.application)
        self._bridge = Bridge(self._calls)
        await self._until_ready(service, ready_within)
        self._watch = asyncio.create_task(self._close_on_failure(service), name="modelmesh watch")

    def _build_service(self) -> NodeService:
        plan = self._plan
        return NodeService(
            plan.topology,
            self._open_store("modelmesh-program"),
            plan.blueprints,
            name=self._name,
            host=socket.gethostname(),
            port=0,
            ops=Doorkeeper([], is_open=True),  # nobody else can reach it
            home=plan.home,
            request_lines=cast("IO[bytes]", RequestLines()),
        )

    def _open_store(self, name: str) -> Store:
        config = self._plan.topology.config.redis
        url = self._embedded.url if self._embedded is not None else self._plan.redis_url
        try:
            return Store(url or "", namespace=config.namespace, timeout_s=config.timeout, name=name)
        except ValueError as error:
            raise StartError(f"not the URL of a Redis: {error}") from error

    async def _until_ready(self, service: NodeService, within_s: float) -> None:
        waits = [asyncio.ensure_future(wait) for wait in (service.until_ready(), service.failed.wait())]
        try:
            await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            ready, failed = waits
            if failed.done():
                raise service.fault or StartError("the node has failed, see the log")
            if not ready.done():
                raise StartError(f"{service.store.masked_url} does not answer within {within_s:g} s")
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)

    # -- the work in the background

    async def _close_on_failure(self, service: NodeService) -> None:
        await service.failed.wait()
        _log.critical("the mesh closes itself: its background work has failed", exc_info=service.fault)
        self._node_calls.refuse(f"the mesh has closed itself: {service.fault!r}")
        await self.close()

    async def _keep_scheduler(self) -> None:
        """What ends a scheduler's process ends its turn here; the next begins a little later."""
        while not self._stopping.is_set():
            try:
                await self._run_scheduler()
            except ModelMeshError as error:
                _log.error("the scheduler cannot run: %s", error)
            except Exception:
                _log.exception("the scheduler has failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(_RESTART_S):
                    await self._stopping.wait()

    async def _run_scheduler(self) -> None:
        # Not at the top, because its libraries take as long to import as all the rest; beside the loop, where calls are under way.
        await asyncio.to_thread(import_module, "scheduler.shifts")
        from scheduler.shifts import Shifts

        plan, store = self._plan, self._open_store("modelmesh-program-scheduler")
        try:
            shifts = Shifts(
                store,
                plan.blueprints,
                plan.topology,
                owner=f"{self.id}.{os.getpid()}.{secrets.token_hex(4)}",
                admin_token=plan.environ.get("MODELMESH_ADMIN_TOKEN"),
                at_home={self.id: self.transport()},
            )
            await shifts.run(self._stopping)
        finally:
            await store.aclose()

    # -- the end

    async def _end(self, drain: float | None) -> None:
        """In order: callers, the node, the scheduler with its last flush, the store."""
        _alive.discard(self)
        self._stopping.set()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        if self._service is not None:
            await self._end_node(self._service, drain)
        if self._scheduler is not None:
            await asyncio.wait([self._scheduler], timeout=_SCHEDULER_S)
            self._scheduler.cancel()
            await asyncio.wait([self._scheduler])
        if self._embedded is not None:
            await self._embedded.stop()

    async def _end_node(self, service: NodeService, drain: float | None) -> None:
        steps: list[Awaitable[None]] = []
        if self._calls is not None:
            within_s = self.topology.config.server.drain if drain is None else drain
            steps = [service.announce_drain(), self._calls.end(within_s=within_s)]
        for step in (*steps, service.stop()):
            try:
                await step
            except Exception:  # the rest has to be let go of all the same
                _log.exception("the mesh did not close in order")

    # -- parts for clients

    @property
    def _node(self) -> NodeService:
        assert self._service is not None, "made by ModelMesh.initialize()"
        return self._service

    @property
    def _node_calls(self) -> Calls:
        assert self._calls is not None, "made by ModelMesh.initialize()"
        return self._calls

    def transport(self) -> InProcessTransport:
        """The way into this mesh for clients of its own event loop, as a transport of httpx."""
        return InProcessTransport(self._node_calls, token=self._token)

    def sync_transport(self) -> SyncTransport:
        """The way into this mesh for clients of other threads, as a transport of httpx."""
        return SyncTransport(self.transport(), self._bridge)

    def _token(self) -> str | None:
        """Who runs in the process that has the configuration has its tokens too."""
        tokens = self.topology.config.proxy.auth.tokens
        return tokens[0].get_secret_value() if tokens else None

    def _ops(self) -> OpsClient:
        return OpsClient(_ORIGIN, transport=self.sync_transport())

    def _let_go(self) -> None:
        if self._embedded is not None:
            self._embedded.let_go()


def _embedded_store(plan: Plan) -> EmbeddedStore:
    return EmbeddedStore(plan.home / "store", environ=plan.environ, tell=_tell)


def _tell(name: str, line: str) -> None:
    _log.warning("%s: %s", name, line)


def _leave_to_parent() -> None:
    """In a forked child: what it inherited of a mesh must not seem to be in use when its parent is gone."""
    for mesh in list(_alive):
        mesh._let_go()
    _alive.clear()


os.register_at_fork(after_in_child=_leave_to_parent)
