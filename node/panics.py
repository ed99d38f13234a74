"""Looks whether pools that were asked on faith are in panic, and tells the cluster. Off the request's path."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from node.routing.panic import is_panic, take_stock
from node.routing.restraint import Faith
from node.snapshot import Snapshot
from node.watch import StoreWatch
from shared_state.panics import PanicReport, note_panic
from shared_state.rotation.maintenance import Calendars
from shared_state.store import STORE_ERRORS, Store

_LOOK_S: Final = 1.0


class PanicWatch:
    """Reports once a second on each pool that was asked on faith, until its panic is over.

    Args:
        faith: what this node has asked on faith; pools that the configuration does not name are passed over.
    """

    def __init__(
        self, store: Store, snapshot: Snapshot, watch: StoreWatch, faith: Faith, *, node: str
    ) -> None:
        self._store = store
        self._snapshot = snapshot
        self._watch = watch
        self._faith = faith
        self._node = node
        self._calendars = Calendars(snapshot.topology)
        self._lasting: set[str] = set()
        self._told: Counter[str] = Counter()
        self._told_well: Counter[str] = Counter()
        self._sequence = 0
        self._pending: dict[str, PanicReport] = {}

    def follow(self, snapshot: Snapshot, faith: Faith) -> None:
        """Watches another configuration from here on; what is lasting, and what is to be said again, stays."""
        self._snapshot, self._faith = snapshot, faith
        self._calendars = Calendars(snapshot.topology)
        self._told.clear()
        self._told_well.clear()

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._watch.connected:
                try:
                    await self.look()
                except STORE_ERRORS as error:
                    self._watch.report_failure(error)

    async def look(self) -> None:
        """Reports on all pools of which there is something to say.

        Raises:
            RedisError, OSError, TimeoutError: the store is away; what was to be said is said again.
        """
        fresh = {pool for pool, count in self._faith.asked.items() if count > self._told[pool]}
        for pool in sorted((fresh | self._lasting) & self._snapshot.topology.pools.keys()):
            if pool not in self._snapshot.topology.pools:
                continue  # it went with its configuration just now
            report = self._pending.get(pool) or self._report(pool)
            self._pending[pool] = report
            lasts = await note_panic(self._store, pool, report, node=self._node)
            del self._pending[pool]
            (self._lasting.add if lasts else self._lasting.discard)(pool)

    def _report(self, pool: str) -> PanicReport:
        spec, now_ms = self._snapshot.topology.pools[pool], self._snapshot.clock.now_ms()
        ward = take_stock(spec.models, self._snapshot, self._calendars, now_ms)
        asked, answered = self._faith.asked[pool], self._faith.answered[pool]
        self._sequence += 1
        report = PanicReport(
            self._sequence,
            is_panic(spec.config.deactivation, ward),
            ward.well,
            ward.size,
            asked - self._told[pool],
            answered - self._told_well[pool],
        )
        self._told[pool], self._told_well[pool] = asked, answered
        return report
