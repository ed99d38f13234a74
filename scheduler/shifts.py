"""The scheduler follows the versions of the configuration: one shift after another, each a service under one of them.

A shift that ends drains, flushes and gives the lead back; the next begins at once. Nodes need no scheduler for that moment. A version that
cannot be run here is told in the lease, where operators see it, and the shift goes on.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import httpx

from scheduler.chronicles import Chronicles
from scheduler.contact import describe
from scheduler.service import SchedulerService
from scheduler.sinks import Sink, SinkAwayError, SinkError, make_sink
from scheduler.verdicts import Judge
from shared_state.blueprints import Blueprints
from shared_state.cancellation import obey_cancellation
from shared_state.errors import ConfigurationError, ModelMeshError, VersionNotFoundError
from shared_state.leadership import tell_version
from shared_state.logs import get_logger
from shared_state.specs import DomainSpec
from shared_state.store import STORE_ERRORS, Store
from shared_state.topology import Topology
from shared_state.versions import Versions

log = get_logger(__name__)

_LOOK_EVERY_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a shift runs; ``former`` are domains that earlier ones had, whose books are not closed yet."""

    number: int
    topology: Topology
    former: Mapping[str, DomainSpec] = field(default_factory=dict)


class Shifts:
    """All shifts of one process. The store belongs to the caller.

    Args:
        topology: what the process's own file comes to; run while there is no version.
        owner: first part of the names in the lease.
        at_home: the nodes in this process, and the way to each.
    """

    def __init__(
        self,
        store: Store,
        blueprints: Blueprints,
        topology: Topology,
        *,
        owner: str,
        admin_token: str | None,
        at_home: Mapping[str, httpx.AsyncBaseTransport] | None = None,
    ) -> None:
        self._store = store
        self._blueprints = blueprints
        self._versions = Versions(store, node=owner)
        self._owner = owner
        self._admin_token = admin_token
        self._at_home = at_home
        self._plan = _Plan(0, topology)
        self._fault = ""
        self._refused = 0
        self._next = asyncio.Event()
        self._service: SchedulerService | None = None
        self._serves = 0  # the number that the shift under way runs
        self._chronicles: Chronicles | None = None
        self._judge = Judge(self._versions, blueprints)

    async def run(self, stopping: asyncio.Event) -> None:
        """Runs until told to stop.

        Raises:
            ConfigurationError: there is a version at the start, and it cannot be run here.
            SinkError: the storage cannot be used.
        """
        own = await self._open_own()
        try:
            if await self._begin(stopping):
                await self._work(stopping)
        finally:
            await own.aclose()

    async def _open_own(self) -> Sink:
        """The storage of the process's own file, where it looks for versions before it knows of any."""
        own = make_sink(self._plan.topology.config.storage)
        try:
            await own.open()
        except SinkAwayError as error:
            log.error("versions have no durable copy until the storage is back", error=error.message)
        except SinkError as error:
            log.error("versions have no durable copy", error=error.message)
            return own
        self._chronicles = Chronicles(self._store, self._versions, own)
        return own

    async def _work(self, stopping: asyncio.Event) -> None:
        following = asyncio.create_task(self._follow())
        sink = make_sink(self._plan.topology.config.storage)
        try:
            await _open(sink)
            while not stopping.is_set():
                sink = await self._shift(sink, stopping)
        finally:
            following.cancel()
            await asyncio.wait([following])
            await sink.aclose()

    async def _begin(self, stopping: asyncio.Event) -> bool:
        """Waits until it is known which version is in force; False if told to stop before."""
        while not stopping.is_set():
            try:
                await self._look()
            except STORE_ERRORS:
                await _either(stopping, within_s=_LOOK_EVERY_S)
                continue
            if self._fault:
                raise ConfigurationError([self._fault])
            return True
        return False

    async def _shift(self, sink: Sink, stopping: asyncio.Event) -> Sink:
        """One shift, up to the next version or the end; the sink of the next."""
        plan = self._plan
        self._next.clear()
        owner = f"{self._owner}.{secrets.token_hex(2)}"
        service = self._service = SchedulerService(
            self._store,
            plan.topology,
            sink,
            owner=owner,
            admin_token=self._admin_token,
            former=plan.former,
            at_home=self._at_home,
        )
        self._serves = plan.number
        service.start()
        log.info("shift begins", number=plan.number, version=plan.topology.version)
        try:
            await _until_any(stopping.wait(), self._next.wait(), service.wait())
        finally:
            await service.stop()
        return sink if stopping.is_set() else await self._open_next(sink, plan)

    async def _open_next(self, sink: Sink, before: _Plan) -> Sink:
        """The sink of the next shift; if that cannot be used, the next shift keeps this one."""
        storage = self._plan.topology.config.storage
        if storage == before.topology.config.storage:
            return sink
        try:
            heir = make_sink(storage)
            await heir.open()
        except ModelMeshError as error:
            self._fault = f"storage: {error.message}"
            log.error("the storage of the new configuration cannot be used", error=error.message)
            return sink
        await sink.aclose()
        return heir

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                await self._look()
                await self._tell()
            except STORE_ERRORS as error:
                log.debug("the version was not read", error=describe(error))
            obey_cancellation()

    async def _look(self) -> None:
        if self._chronicles is not None and self._plan.topology.config.scheduler.copy_interval:
            await self._chronicles.look()
        pulse = await self._versions.pulse()
        await self._move(pulse.current)
        await self._judge.look(pulse.proposed, self._plan.topology.config.storage)

    async def _move(self, number: int) -> None:
        if number <= self._plan.number or number == self._refused:
            return
        try:
            version = await self._versions.read(number)
            topology = await self._blueprints.read(version.document, source=f"version {number}")
        except (ConfigurationError, VersionNotFoundError) as error:
            self._refused, self._fault = number, error.message
            log.error("the configuration in force cannot be run here", number=number, error=error.message)
            return
        former = {**await self._former(), **self._plan.former, **_domains(self._plan.topology)}
        self._fault = ""
        self._plan = _Plan(number, topology, {k: v for k, v in former.items() if k not in _domains(topology)})
        self._next.set()

    async def _former(self) -> Mapping[str, DomainSpec]:
        """For a process that begins after a change: the domains of the version before the one in force, as far as they can be told."""
        if self._plan.number:
            return {}
        try:
            known = [version.number for version in (await self._versions.history())[1:2]]
            versions = [await self._versions.read(number) for number in known]
            found = [await self._blueprints.read(v.document, source=f"version {v.number}") for v in versions]
        except (ConfigurationError, VersionNotFoundError):
            return {}
        return {name: domain for topology in found for name, domain in _domains(topology).items()}

    async def _tell(self) -> None:
        """The one that leads says what it runs."""
        if self._service is not None and self._service.leadership.is_leading:
            await tell_version(self._store, self._serves, self._fault, self._judge.verdict)


def _domains(topology: Topology) -> dict[str, DomainSpec]:
    return {**topology.domains, **topology.gates}


async def _open(sink: Sink) -> None:
    """A storage that is away keeps no scheduler from its other work; Redis keeps the statistics meanwhile."""
    try:
        await sink.open()
    except SinkAwayError as error:
        log.error(
            "the storage is away; statistics stay in Redis, and there are no copies", error=error.message
        )


async def _either(event: asyncio.Event, *, within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        pass


async def _until_any(*waits: object) -> None:
    """Returns with the first of them, or raises its error."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]  # type: ignore[call-overload]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    for task in done:
        task.result()
