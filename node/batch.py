"""Group commit: all admissions and settlements that wait for a quota domain travel in one script call.

While one call is under way the next batch gathers, so batches grow with the load and a lonely request waits for nobody. A settlement
waits a moment for an admission to travel with, unless somebody waits for it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from node.early import EarlyWord
from node.spool import Shelf
from node.watch import StoreWatch
from shared_state.config import PoolConfig
from shared_state.errors import TermChangedError
from shared_state.ledger import MAX_BATCH, NOT_SENT, Ask, Code, DomainLedger, Outcome, Settlement, Verdict
from shared_state.logs import get_logger
from shared_state.specs import DomainSpec
from shared_state.store import STORE_ERRORS

log = get_logger(__name__)

_AWAY: Final = Verdict(Code.STORE_AWAY)
_IN_DOUBT: Final = Verdict(Code.STORE_AWAY, in_doubt=True)
_OUTBOX: Final = 100_000
_RETRY_S: Final = 0.1
#: How long a settlement waits for company: short beside any answer of a provider, long beside the time between two requests under load.
COMPANY_S: Final = 0.005
#: The same where calls in flight are limited, for whoever asks next may need the very slot; where there are few slots nobody waits for company.
#: The loop's timers count whole milliseconds and may go off almost one too soon, so one would be none to a client that asks again at once.
SLOTTED_COMPANY_S: Final = 0.002
_FEW_SLOTS: Final = 32

_Waiting = tuple[Ask, PoolConfig, asyncio.Future[Verdict]]


class DomainBatcher:
    """Carries one domain's asks and settlements to its ledger.

    Args:
        on_reply: called after each reply, for its epoch may be news.
        shelf: where settlements are kept on disk while Redis is away.
    """

    def __init__(
        self,
        ledger: DomainLedger,
        watch: StoreWatch,
        *,
        on_reply: Callable[[DomainLedger], None],
        shelf: Shelf | None = None,
    ) -> None:
        self._ledger = ledger
        self._watch = watch
        self._on_reply = on_reply
        self._shelf = shelf
        self._asks: deque[_Waiting] = deque()
        self._outbox: deque[Settlement] = deque()
        self._admitting: asyncio.Task[None] | None = None
        #: Carries settlements alone; else they travel with asks, so many of them just now.
        self._settling: asyncio.Task[None] | None = None
        self._aboard = 0
        self._company: asyncio.TimerHandle | None = None
        self._patience: tuple[DomainSpec, float] | None = None
        self._is_urgent = False
        self._handed = self._applied = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._early = EarlyWord(ledger, watch, on_reply=on_reply)
        self.lost_settlements = 0

    @property
    def unsettled(self) -> int:
        """Settlements that have not reached Redis yet."""
        return len(self._outbox)

    async def admit(self, ask: Ask, pool: PoolConfig) -> Verdict:
        """Asks for admission. When Redis is away the answer is ``STORE_AWAY``, and what may have been admitted is given back.

        While the domain is held after a loss it is ``HELD``.
        """
        if not self._watch.connected:
            return _AWAY
        if self._ledger.is_held():
            return Verdict(Code.HELD, self._ledger.hold_until_ms)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Verdict] = loop.create_future()
        self._asks.append((ask, pool, answer))
        if self._admitting is None:
            self._admitting = loop.create_task(self._admit_all())
        try:
            return await answer
        except asyncio.CancelledError:
            if _was_admitted(answer):  # the asker left in the very moment of its admission
                self._give_back(ask, pool)
            raise

    def settle(self, settlement: Settlement) -> None:
        """Hands a settlement over; it reaches Redis even if the request's own task is cancelled."""
        if len(self._outbox) >= _OUTBOX:
            # The reservation's lease charges it in full; the outbox must not grow without bound.
            self.lost_settlements += 1
            return
        self._outbox.append(settlement)
        self._handed += 1
        if self._admitting is None:
            self._await_company()

    def learn(self, model: str, learned: Sequence[tuple[str, int, int]]) -> bool:
        """Hands over what the head of a long answer says about the provider's limits; False if it has to wait for the settlement."""
        return self._early.tell(model, learned)

    async def until_settled(self, within_s: float) -> None:
        """Waits a moment until what was handed over so far has reached Redis, so that whoever acts next acts on it."""
        if not self._watch.connected or self._applied >= self._handed:
            return
        applied: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((self._handed, applied))
        self._settle_now()
        await asyncio.wait([applied], timeout=within_s)

    async def flush(self) -> None:
        """Waits until every settlement handed over so far has reached Redis."""
        while self._outbox:
            self._settle_now()
            under_way = [task for task in (self._settling, self._admitting) if task is not None]
            await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)

    async def _admit_all(self) -> None:
        try:
            while self._asks:
                # A turn of the loop: nothing if it is idle; if it is busy, whoever is next comes along.
                await asyncio.sleep(0)
                batch = [self._asks.popleft() for _ in range(min(len(self._asks), MAX_BATCH))]
                await self._admit_batch(batch, self._board())
        finally:
            self._admitting = None
            self._await_company()

    def _board(self) -> list[Settlement]:
        """The settlements that travel with the asks."""
        if self._settling is not None or not self._ledger.is_asserted:
            return []
        settlements = self._next_settlements()
        self._aboard = len(settlements)
        self._stop_waiting()
        return settlements

    async def _admit_batch(self, batch: list[_Waiting], settlements: list[Settlement]) -> None:
        try:
            verdicts, applied = await self._exchange(batch, settlements)
        except STORE_ERRORS as error:
            self._watch.report_failure(error)
            self._answer_in_doubt(batch)
            return
        except Exception as error:  # a fault of ours: nobody may wait for an answer that never comes
            for _, _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            self._settle_now()  # apart from the asks, so that it shows whose fault it was
            return
        if applied is not None:
            self._forget_settled(len(applied))
        for (ask, pool, answer), verdict in zip(batch, verdicts, strict=True):
            if not answer.done():
                answer.set_result(verdict)
            elif verdict.code == Code.ADMITTED:
                self._give_back(ask, pool)
        self._on_reply(self._ledger)

    def _answer_in_doubt(self, batch: list[_Waiting]) -> None:
        for ask, pool, answer in batch:
            self._give_back(ask, pool)
            if not answer.done():
                answer.set_result(_IN_DOUBT)

    async def _exchange(
        self, batch: list[_Waiting], settlements: list[Settlement]
    ) -> tuple[list[Verdict], list[bool] | None]:
        try:
            return await self._ledger.exchange([ask for ask, _, _ in batch], settlements)
        finally:
            self._aboard = 0

    def _give_back(self, ask: Ask, pool: PoolConfig) -> None:
        self.settle(Settlement(ask.reservation, ask.model, pool, Outcome.NEUTRAL, flags=NOT_SENT))

    def _next_settlements(self) -> list[Settlement]:
        return list(itertools.islice(self._outbox, MAX_BATCH))

    def _await_company(self) -> None:
        """Sees to it that what waits in the outbox goes soon: at once if it has to, or is a whole batch."""
        if not self._outbox:
            return
        if self._is_urgent or len(self._outbox) >= MAX_BATCH:
            self._settle_alone()
        elif self._company is None and self._settling is None:
            self._company = asyncio.get_running_loop().call_later(self._patience_s(), self._settle_alone)

    def _patience_s(self) -> float:
        domain = self._ledger.domain
        if self._patience is None or self._patience[0] is not domain:
            self._patience = domain, patience_s(domain)
        return self._patience[1]

    def _stop_waiting(self) -> None:
        if self._company is not None:
            self._company.cancel()
            self._company = None

    def _settle_now(self) -> None:
        """Sends what is in the outbox; if a part of it is under way, then as soon as that has arrived."""
        self._is_urgent = bool(self._outbox)
        self._settle_alone()

    def _settle_alone(self) -> None:
        self._stop_waiting()
        if self._outbox and self._settling is None and not self._aboard:
            self._settling = asyncio.get_running_loop().create_task(self._settle_all())

    async def _settle_all(self) -> None:
        try:
            while self._outbox:
                batch = self._next_settlements()
                if await self._settle_batch(batch):
                    self._forget_settled(len(batch))
                    if self._admitting is not None and not self._is_urgent:
                        return  # else both would go on side by side, in twice as many calls
                else:
                    if self._shelf is not None:
                        self._shelf.keep(self._outbox, self._applied)
                    await asyncio.sleep(_RETRY_S)
        finally:
            self._settling = None

    def _forget_settled(self, count: int) -> None:
        for _ in range(count):
            self._outbox.popleft()
        if not self._outbox:
            self._is_urgent = False
            if self._shelf is not None:
                self._shelf.clear()
        self._tell_waiters(count)

    def _tell_waiters(self, applied: int) -> None:
        self._applied += applied
        while self._waiters and self._waiters[0][0] <= self._applied:
            waiter = self._waiters.popleft()[1]
            if not waiter.done():
                waiter.set_result(None)

    async def _settle_batch(self, batch: list[Settlement]) -> bool:
        if not self._watch.connected or not self._ledger.is_asserted:
            return False
        try:
            await self._ledger.settle(batch)
        except TermChangedError:
            return False
        except STORE_ERRORS as error:
            self._watch.report_failure(error)
            return False
        except Exception:
            # A fault of ours: one batch must not hold up all that follow; its leases charge it in full.
            log.exception("settlements dropped", domain=self._ledger.domain.id, dropped=len(batch))
            self.lost_settlements += len(batch)
            return True
        self._on_reply(self._ledger)
        return True


def patience_s(domain: DomainSpec) -> float:
    """How long the settlements of a domain wait for company."""
    of_all = (domain.limits, *(model.config.limits for model in domain.models))
    slots = [limits.concurrency for limits in of_all if limits.concurrency is not None]
    if not slots:
        return COMPANY_S
    return 0.0 if min(slots) <= _FEW_SLOTS else SLOTTED_COMPANY_S


def _was_admitted(answer: asyncio.Future[Verdict]) -> bool:
    has_verdict = answer.done() and not answer.cancelled() and answer.exception() is None
    return has_verdict and answer.result().code == Code.ADMITTED
