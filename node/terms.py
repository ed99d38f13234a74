"""After a loss in the shared state: asserts what this node knows, waits for the hold to end, and says what had to be corrected."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import asdict
from typing import Final, Protocol

from node.leases import LeaseKeeper
from node.watch import StoreWatch
from shared_state.assertion import Assertion, Correction, Standby
from shared_state.errors import TermChangedError
from shared_state.ledger import DomainLedger
from shared_state.logs import get_logger
from shared_state.store import STORE_ERRORS

log = get_logger(__name__)

_RETRY_S: Final = 0.05


class StateView(Protocol):
    """What a node knows of the states of a domain."""

    def epoch(self, domain: str) -> int:
        """The last epoch that was seen."""

    def standbys(self, domain: str) -> list[Standby]:
        """What is on standby."""

    def refresh(self, domain: str) -> None:
        """Reads the domain again."""


class TermKeeper:
    """Keeps one domain's term.

    Attributes:
        corrected: sums over all corrections since the start: ``terms``, ``admissions``, ``settlements``, ``states``.
    """

    def __init__(
        self, ledger: DomainLedger, leases: LeaseKeeper, snapshot: StateView, watch: StoreWatch
    ) -> None:
        self.corrected: Counter[str] = Counter()
        self._ledger = ledger
        self._leases = leases
        self._snapshot = snapshot
        self._watch = watch
        self._domain = ledger.domain.id
        self._wanted = asyncio.Event()
        ledger.on_hold = self._note_hold

    def look_at(self, snapshot: StateView) -> None:
        """Asserts what stands there from here on."""
        self._snapshot = snapshot

    def _note_hold(self) -> None:
        self._watch.hold(self._domain)  # at once: whoever was refused may want to wait for its end
        self._wanted.set()

    async def run(self) -> None:
        """Asserts whenever another term is seen, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                if self._ledger.is_held():
                    await self._assert()
                    await self._until_open()
            finally:
                self._watch.release(self._domain)

    async def _assert(self) -> None:
        assertion = Assertion(self._ledger)
        while not self._ledger.is_asserted:
            try:
                if self._watch.connected and await self._go_through(assertion):
                    return
            except TermChangedError:
                log.info("the server changed again", domain=self._domain)
            except STORE_ERRORS as error:
                self._watch.report_failure(error)
            await asyncio.sleep(_RETRY_S)

    async def _go_through(self, assertion: Assertion) -> bool:
        """One try; False while a durable copy may still come."""
        epoch = self._snapshot.epoch(self._domain)
        if not await assertion.begin(epoch=epoch):
            return False
        await assertion.replay()
        used = await self._leases.assert_held(term=assertion.term, known=assertion.renewals_known)
        assertion.note_leases(used)
        before = self._ledger.term
        correction = await assertion.finish(self._snapshot.standbys(self._domain), epoch=epoch)
        self._snapshot.refresh(self._domain)
        if self._ledger.term != before:
            self._tell(correction)
        return True

    def _tell(self, correction: Correction) -> None:
        self.corrected["terms"] += 1
        for name in ("admissions", "settlements", "states"):
            self.corrected[name] += getattr(correction, name)
        log.warning("state corrected", domain=self._domain, **asdict(correction))

    async def _until_open(self) -> None:
        """Until all nodes have asserted, or the hold is over."""
        while self._ledger.is_asserted and self._ledger.is_held():
            await asyncio.sleep(_RETRY_S)
            try:
                if self._watch.connected:
                    await self._ledger.read_hold()
            except STORE_ERRORS as error:
                self._watch.report_failure(error)
        if not self._ledger.is_asserted:
            self._wanted.set()
