"""One scheduler under one configuration: its jobs, its lead, and their order of starting and stopping."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import httpx

from scheduler.contact import Contact, describe
from scheduler.jobs.audit import Audit
from scheduler.jobs.copies import Copies
from scheduler.jobs.flush import Flush
from scheduler.jobs.health import HealthMonitor
from scheduler.jobs.leases import LeaseEnder
from scheduler.jobs.leftovers import Leftovers
from scheduler.jobs.maintenance import Maintenance
from scheduler.jobs.probes import Probes
from scheduler.jobs.reaper import Reaper
from scheduler.jobs.recovery import Recovery
from scheduler.jobs.rests import Rests
from scheduler.jobs.retention import Retention
from scheduler.jobs.selftest import SelfTest
from scheduler.jobs.sequences import Sweep
from scheduler.jobs.sync import Sync
from scheduler.jobs.telling import Telling
from scheduler.leadership import Leadership
from scheduler.news import News
from scheduler.nodes import Nodes
from scheduler.pulses import Pulses
from scheduler.reports import Reports
from scheduler.sinks import Sink
from scheduler.sinks.events import make_target
from scheduler.sinks.statistics import make_feed
from scheduler.timetable import Job, Timetable
from shared_state.config.targets import names_of
from shared_state.directory import DomainDirectory
from shared_state.errors import ModelMeshError
from shared_state.logs import get_logger
from shared_state.specs import DomainSpec
from shared_state.store import STORE_ERRORS, Store
from shared_state.topology import Topology

log = get_logger(__name__)

RECOVERY_EVERY_S: Final = 0.25
LEASES_EVERY_S: Final = 1.0
RESTS_EVERY_S: Final = 0.5
MAINTENANCE_EVERY_S: Final = 1.0
PROBES_EVERY_S: Final = 0.5
AUDIT_EVERY_S: Final = 60.0
REAP_EVERY_S: Final = 1.0
SWEEP_EVERY_S: Final = 60.0
FORGET_EVERY_S: Final = 600.0
SELF_TEST_EVERY_S: Final = 2.0
RESTORE_EVERY_S: Final = 0.5
SYNC_LOOK_EVERY_S: Final = 5.0
TELL_EVERY_S: Final = 0.5
PRUNE_EVERY_S: Final = 600.0
_RECOVERY_TIMEOUT_S: Final = 5.0
_PROBES_TIMEOUT_S: Final = 90.0
_REAP_TIMEOUT_S: Final = 10.0
_FLUSH_TIMEOUT_S: Final = 60.0
_DISCOVERY_TIMEOUT_S: Final = 300.0
_DRAIN_S: Final = 4.0


class SchedulerService:
    """One scheduler. The store and the sink belong to the caller, who opens and closes them.

    Args:
        owner: name of this process in the lease; no other process, living or frozen, may have it.
        admin_token: of the nodes' operators' API, for probes.
        former: domains of earlier configurations, whose books are not closed yet.
        at_home: the nodes in this process, and the way to each.
    """

    def __init__(
        self,
        store: Store,
        topology: Topology,
        sink: Sink,
        *,
        owner: str,
        admin_token: str | None = None,
        former: Mapping[str, DomainSpec] | None = None,
        at_home: Mapping[str, httpx.AsyncBaseTransport] | None = None,
    ) -> None:
        config, accounts = topology.config.scheduler, tuple(topology.domains)
        domains = DomainDirectory(store, topology, former=former)
        pulses = Pulses(store, accounts)
        self._contact = Contact(store.masked_url)
        feed = make_feed(topology.config.observability.statistics, topology)
        self._flush = Flush(store, domains, sink, feed=feed)
        self._copies = Copies(store, domains, sink) if config.copy_interval else None
        self._nodes = Nodes(store, token=admin_token, at_home=at_home)
        self._tellings = _tellings(store, topology, domains)
        jobs = [
            *_returns(store, topology, self._nodes, pulses),
            *_books(store, topology, domains, self._flush, self._contact),
            *_keeping(store, topology, sink),
            *_copying(self._copies, config.copy_interval),
            *_discovery(store, topology, self._nodes),
            *_telling(self._tellings, topology),
            Job("selftest", SelfTest(store).run, SELF_TEST_EVERY_S, _REAP_TIMEOUT_S, is_loop=True),
        ]
        self.leadership = Leadership(store, owner, lease_s=config.lease, contact=self._contact)
        self.reports = Reports(store, [(job.name, job.interval_s) for job in jobs])
        self._timetable = Timetable(
            jobs, leadership=self.leadership, reports=self.reports, contact=self._contact
        )
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to contend for the lead; with the store away it waits for it."""
        self._tasks = [asyncio.create_task(self.leadership.run()), asyncio.create_task(self._timetable.run())]

    async def wait(self) -> None:
        """Returns only if a part of the service has broken down, with its error."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def stop(self, *, drain_s: float = _DRAIN_S) -> None:
        """Finishes the running jobs, flushes what is closed, copies what has changed, gives the lead back."""
        await self._timetable.drain(deadline_s=drain_s)
        if self.leadership.is_leading:
            await self._finish(drain_s)
        self.leadership.resign()
        leading, timing = self._tasks
        await asyncio.wait([leading])
        timing.cancel()
        await asyncio.wait([timing])
        await self._nodes.aclose()
        for telling in self._tellings.values():
            await telling.aclose()

    async def _finish(self, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await self._flush.run(self.leadership.token)
                if self._copies is not None:
                    await self._copies.run(self.leadership.token)
                await self.reports.publish()
        except (*STORE_ERRORS, ModelMeshError) as error:
            log.warning("the last flush and copy are left to the next scheduler", error=describe(error))


def _returns(store: Store, topology: Topology, nodes: Nodes, pulses: Pulses) -> list[Job]:
    """The jobs that bring models back, or take them out by the clock."""
    recovery = Recovery(store, pulses).run
    maintenance = Maintenance(store, topology).run
    probes = Probes(store, topology, nodes, pulses).run
    rests = Rests(store, topology, pulses).run
    return [
        Job("recovery", recovery, RECOVERY_EVERY_S, _RECOVERY_TIMEOUT_S, is_loop=True),
        Job("rests", rests, RESTS_EVERY_S, _REAP_TIMEOUT_S, is_loop=True),
        Job("maintenance", maintenance, MAINTENANCE_EVERY_S, _RECOVERY_TIMEOUT_S, is_loop=True),
        Job("probes", probes, PROBES_EVERY_S, _PROBES_TIMEOUT_S, is_loop=True),
    ]


def _books(
    store: Store, topology: Topology, domains: DomainDirectory, flush: Flush, contact: Contact
) -> list[Job]:
    """The jobs that close what others left open, and count."""
    leases = LeaseEnder(store, domains).run
    reaper = Reaper(store, domains, contact=contact).run
    leftovers = Leftovers(store, topology, flush).run
    return [
        Job("leases", leases, LEASES_EVERY_S, _REAP_TIMEOUT_S, is_loop=True),
        Job("reaper", reaper, REAP_EVERY_S, _REAP_TIMEOUT_S, is_loop=True),
        Job("sweep", Sweep(store, domains).run, SWEEP_EVERY_S, _REAP_TIMEOUT_S),
        Job("audit", Audit(store, domains).run, AUDIT_EVERY_S, _FLUSH_TIMEOUT_S),
        Job("flush", flush.run, topology.config.flush_interval_s, _FLUSH_TIMEOUT_S),
        Job("leftovers", leftovers, FORGET_EVERY_S, _FLUSH_TIMEOUT_S),
    ]


def _keeping(store: Store, topology: Topology, sink: Sink) -> list[Job]:
    """The job that keeps the storage from growing for ever."""
    kept_s = topology.config.observability.statistics.retention
    if not kept_s:
        return []
    work = Retention(store, sink, kept_s=kept_s).run
    return [Job("retention", work, PRUNE_EVERY_S, _FLUSH_TIMEOUT_S)]


def _copying(copies: Copies | None, every_s: float) -> list[Job]:
    """The jobs that keep durable copies, and put them back."""
    if copies is None:
        return []
    return [
        Job("copies", copies.run, every_s, _FLUSH_TIMEOUT_S, is_loop=True),
        Job("restore", copies.watch, RESTORE_EVERY_S, _FLUSH_TIMEOUT_S, is_loop=True),
    ]


def _discovery(store: Store, topology: Topology, nodes: Nodes) -> list[Job]:
    """The jobs that look at providers, through the nodes."""
    config, jobs = topology.config.discovery, []
    if config.sync.enabled:
        every_s = min(SYNC_LOOK_EVERY_S, config.sync.interval)
        work = Sync(store, topology, nodes).run
        jobs.append(Job("sync", work, every_s, _DISCOVERY_TIMEOUT_S, is_loop=True))
    if config.health.enabled:
        monitor = HealthMonitor(store, topology, nodes).run
        jobs.append(Job("health", monitor, config.health.interval, _DISCOVERY_TIMEOUT_S, is_loop=True))
    return jobs


def _tellings(store: Store, topology: Topology, domains: DomainDirectory) -> dict[str, Telling]:
    """Each target of events, by its name."""
    targets, news = topology.config.observability.events, News(store, topology, domains)
    return {
        name: Telling(store, news, name, config, make_target(config))
        for name, config in zip(names_of(targets), targets, strict=True)
    }


def _telling(tellings: Mapping[str, Telling], topology: Topology) -> list[Job]:
    """A job for each target of events: one that is slow or away holds up nobody else."""
    longest_s = {
        name: config.timeout
        for name, config in zip(tellings, topology.config.observability.events, strict=True)
    }
    return [
        Job(f"events:{name}", telling.run, TELL_EVERY_S, longest_s[name] + _REAP_TIMEOUT_S, is_loop=True)
        for name, telling in tellings.items()
    ]
