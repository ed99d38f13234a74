"""Examines the store at the start, hourly, and when another server has taken over; publishes and logs what was found."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from shared_state.findings import Finding, Severity, StoreReport, publish_report, read_report
from shared_state.logs import get_logger
from shared_state.selftest import judge, read_runs, read_servers
from shared_state.store import Store

log = get_logger(__name__)

EXAMINE_EVERY_S: Final = 3600.0
_LOUD: Final = (Severity.ERROR, Severity.WARNING)


class SelfTest:
    """Looks at every server of the store; remembers their clocks, for one of them may go back.

    Args:
        clock: monotonic seconds.
        wall: unix seconds.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._clock = clock
        self._wall = wall
        self._clocks: dict[str, tuple[int, float]] = {}
        self._told: frozenset[Finding] = frozenset()
        self._runs: dict[str, str] = {}
        self._examined_s = -EXAMINE_EVERY_S

    async def run(self, _token: int) -> None:
        """Examines the store if it is time, or if it is not the one that was examined. Needs no fence, for it changes nothing
        that another scheduler relies on.

        Raises:
            RedisError, OSError, TimeoutError: the store is away.
        """
        runs = await read_runs(self._store)
        is_same = runs == self._runs and await read_report(self._store) is not None
        if is_same and self._clock() - self._examined_s < EXAMINE_EVERY_S:
            return
        await self._examine()
        self._runs, self._examined_s = runs, self._clock()

    async def _examine(self) -> None:
        servers = await read_servers(self._store, earliest_ms=await self._earliest_ms(), wall=self._wall)
        findings = judge(servers)
        self._clocks = {server.name: (server.time_ms, self._clock()) for server in servers}
        clocks = {server.name: server.time_ms for server in servers}
        self._log(findings)  # first, for a store that is full takes no report
        await publish_report(self._store, StoreReport(max(clocks.values()), findings, clocks))

    async def _earliest_ms(self) -> dict[str, int]:
        """What each clock must show at least: by our own watch, or else by the report of whoever looked before."""
        report = await read_report(self._store)
        earliest = dict(report.clocks) if report else {}
        now_s = self._clock()
        for name, (time_ms, seen_s) in self._clocks.items():
            earliest[name] = time_ms + round((now_s - seen_s) * 1000)
        return earliest

    def _log(self, findings: tuple[Finding, ...]) -> None:
        loud = frozenset(finding for finding in findings if finding.severity in _LOUD)
        for finding in findings:
            if finding in loud - self._told:
                log.warning(
                    "store finding", code=finding.code, severity=finding.severity, message=finding.message
                )
        if self._told and not loud:
            log.info("store is as it should be again")
        self._told = loud
