"""Gauges of the whole cluster, which any node can tell: quotas, availability, the scheduler, and whether the books balance.

They are read from Redis when somebody scrapes, at most once in a few seconds, and never wait longer than one deadline.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from node.observe.clockwork import Clockwork, families_of, read_clockwork
from node.snapshot import Snapshot
from node.watch import StoreWatch
from shared_state.availability import read_health
from shared_state.books import Cause, read_audit
from shared_state.capacity import first_dry, lines_of
from shared_state.config.targets import names_of
from shared_state.logs import get_logger
from shared_state.store import STORE_ERRORS, Store
from shared_state.usage import Usage, in_units, read_usage, unit_name

log = get_logger(__name__)

_FRESH_S: Final = 5.0
_STALE_S: Final = 60.0
_DEADLINE_S: Final = 1.0


class ClusterGauges(Collector):
    """Labels come from the configuration alone. What could not be read for a minute is left out."""

    def __init__(self, store: Store, snapshot: Snapshot, watch: StoreWatch) -> None:
        self._store = store
        self._snapshot = snapshot
        self._watch = watch
        self._loop_time = asyncio.get_running_loop().time
        self._reading = asyncio.Lock()
        self._usage: Usage | None = None
        self._audit: tuple[float, dict[str, int]] | None = None
        self._available: dict[str, float] = {}
        self._clockwork: Clockwork | None = None
        self._read_at = self._tried_at = -math.inf

    def look_at(self, snapshot: Snapshot) -> None:
        """Tells of another configuration from here on, once that was read."""
        self._snapshot, self._usage, self._tried_at = snapshot, None, -math.inf

    async def refresh(self) -> None:
        """Reads again what is older than a few seconds; if the store is away, what was read before stays."""
        async with self._reading:
            now = self._loop_time()
            if now - self._tried_at < _FRESH_S or not self._watch.connected:
                return
            self._tried_at = now
            try:
                async with asyncio.timeout(_DEADLINE_S):
                    await self._read()
            except (
                STORE_ERRORS
            ) as error:  # a scrape may be slow for reasons of its own: it is no verdict on the store
                log.debug("gauges were not read", error=str(error))
            else:
                self._read_at = now

    async def _read(self) -> None:
        domains, clock = self._snapshot.topology.domains, self._snapshot.clock
        self._usage = await read_usage(self._store, domains, now_ms=clock.now_ms())
        self._audit = await read_audit(self._store)
        available: dict[str, float] = {}
        for domain in domains:
            kept = await read_health(self._store, domain)
            available |= {provider: health.score for provider, health in kept.providers.items()}
        self._available = available
        targets = names_of(self._snapshot.topology.config.observability.events)
        self._clockwork = await read_clockwork(self._store, targets, now_ms=clock.now_ms())

    def collect(self) -> Iterator[Metric]:
        """All families, from what was read last."""
        is_known = self._loop_time() - self._read_at < _STALE_S
        yield self._windows(self._usage if is_known else None)
        yield from self._pools(self._usage if is_known else None)
        yield from self._books(self._audit if is_known else None)
        yield self._availability(self._available if is_known else {})
        yield from families_of(self._clockwork if is_known else None)

    def _windows(self, usage: Usage | None) -> Metric:
        family = GaugeMetricFamily(
            "modelmesh_window_used_ratio",
            "Part of a limit that is taken, leases included; without a model it is the account's.",
            labels=["domain", "model", "window"],
        )
        for use in usage.domains.values() if usage else ():
            for model, windows in [("", use.account), *use.models.items()]:
                for window in windows:
                    family.add_metric([use.domain, model, window.name], window.share)
        return family

    def _pools(self, usage: Usage | None) -> Iterator[Metric]:
        remaining = GaugeMetricFamily(
            "modelmesh_pool_remaining",
            "What the active members of a pool can still take, each account counted once.",
            labels=["pool", "unit"],
        )
        dry = GaugeMetricFamily(
            "modelmesh_pool_dry_seconds",
            "Until a pool's first quota is spent at the current rate; +Inf if all last.",
            labels=["pool"],
        )
        for pool in self._snapshot.topology.pools.values() if usage else ():
            assert usage is not None
            lines = lines_of(pool, usage.domains, usage.rates, is_active=self._snapshot.is_active)
            first = first_dry(lines)
            dry.add_metric([pool.id], first.dry_s if first else math.inf)
            for line in lines:
                if math.isfinite(line.remaining):
                    unit = unit_name(line.dimension, line.period)
                    remaining.add_metric([pool.id, unit], in_units(line.dimension, line.remaining))
        yield remaining
        yield dry

    def _availability(self, scores: dict[str, float]) -> Metric:
        family = GaugeMetricFamily(
            "modelmesh_availability",
            "How available a provider is, from 0 to 1, by the scheduler's health monitor.",
            labels=["provider"],
        )
        for provider in self._snapshot.topology.providers:
            if provider in scores:
                family.add_metric([provider], scores[provider])
        return family

    def _books(self, audit: tuple[float, dict[str, int]] | None) -> Iterator[Metric]:
        off = GaugeMetricFamily(
            "modelmesh_books_difference",
            "What is off in the books of the cluster by the scheduler's last audit; absent without one.",
            labels=["cause"],
        )
        audited = GaugeMetricFamily("modelmesh_books_audited_seconds", "Unix time of that audit.")
        if audit is not None:
            audited.add_metric([], audit[0])
            for cause in Cause:
                off.add_metric([cause], audit[1].get(cause, 0))
        yield off
        yield audited
