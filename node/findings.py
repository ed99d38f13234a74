"""What the scheduler found wrong with the store, as this node last read it: for ``/ready``, the operators' API and the metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from node.watch import StoreWatch
from shared_state.findings import Finding, StoreReport, read_report
from shared_state.store import STORE_ERRORS, Store

_READ_EVERY_S: Final = 2.0


class StoreFindings:
    """Follows the report of the self-test. When Redis is away the last one stays."""

    def __init__(self, store: Store, watch: StoreWatch) -> None:
        self._store = store
        self._watch = watch
        self._wake = asyncio.Event()
        self.report: StoreReport | None = None
        watch.on_return(self._wake.set)

    @property
    def findings(self) -> Sequence[Finding]:
        """The gravest first; nothing if all is well or nobody has looked."""
        return self.report.findings if self.report else ()

    def brief(self) -> list[dict[str, str]]:
        """For ``/ready``, which everybody may ask: without the messages, which describe the installation."""
        return [{"code": finding.code, "severity": finding.severity} for finding in self.findings]

    async def run(self) -> None:
        """Reads every few seconds, until cancelled."""
        while True:
            self._wake.clear()
            if self._watch.connected:
                try:
                    self.report = await read_report(self._store)
                except STORE_ERRORS as error:
                    self._watch.report_failure(error)
            try:
                async with asyncio.timeout(_READ_EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                continue
