"""Pre-paid allowances: what this node may still admit when Redis is away, so that no limit is exceeded even then.

While Redis answers, each node holds a small part of every limited window that it uses, renewed each second and sized by its
own recent traffic. An allowance is spent only during an outage, and only for as long as Redis keeps it for us.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

from node.watch import StoreWatch
from shared_state.errors import TermChangedError
from shared_state.ledger import Amounts, Ask, DomainLedger, LeaseWish
from shared_state.specs import DomainSpec
from shared_state.store import STORE_ERRORS

#: How long Redis keeps a lease without renewal, and how much earlier we stop spending it.
LIFE_S: Final = 60.0
_MARGIN_S: Final = 3.0
_RENEW_S: Final = 1.0
#: All nodes together renew the lease of a model so often a second at the most, unless that would make renewals too rare.
_RENEWALS_PER_S: Final = 100
_RAREST_S: Final = 10.0
#: A lease covers this much of the recent traffic.
_COVER_S: Final = 5.0
_MOST_REQUESTS: Final = 256
#: Weight of the last second in the moving averages.
_WEIGHT: Final = 0.3
_IDLE_RATE: Final = 0.05
_NOTHING: Final = Amounts()
#: One report a second, and a server never forgets that much.
_REPORTS_KEPT: Final = 256


def renewal_s(nodes: int) -> float:
    """How long a node of so many waits between two renewals: a second, or as long as keeps Redis from being busy with nothing else."""
    return min(_RAREST_S, max(_RENEW_S, nodes / _RENEWALS_PER_S))


class Allowance:
    """What may be spent on one model.

    Args:
        hurry: called when somebody waits for the report of what was spent.

    Attributes:
        left: what is held and not spent.
        running: what was spent on calls that have not ended: they still take their slots.
        used: what was spent on calls that have ended, and not reported.
    """

    def __init__(
        self, model: str, *, now: Callable[[], float], hurry: Callable[[], None] = lambda: None
    ) -> None:
        self.model = model
        self.left = _NOTHING
        self.used = _NOTHING
        self._running: dict[str, Amounts] = {}
        self._spent = _NOTHING
        self._reported = asyncio.Event()
        self._reported.set()
        self._usable_until = 0.0
        self._wished_at = 0.0
        self._rate = 0.0
        self._asks = 0
        self._one = _NOTHING
        self._gone = _NOTHING
        self._is_given_up = False
        self._now = now
        self._hurry = hurry

    def note(self, ask: Ask) -> None:
        """Learns from an ask how much a request needs, and how often one comes."""
        self._asks += 1
        self._one = _needs(ask)

    def spend(self, ask: Ask) -> bool:
        """Admits out of the allowance; False if it does not reach or is too old."""
        need = _needs(ask)
        if self._now() >= self._usable_until or any(
            n > have for n, have in zip(need, self.left, strict=True)
        ):
            return False
        self.left = _minus(self.left, need)
        self._running[ask.reservation] = need
        self._spent = _plus(self._spent, need)
        self._reported.clear()
        return True

    def end(self, reservation: str) -> None:
        """The call is over for which this ask was admitted; whoever was not admitted out of the allowance may say so too."""
        need = self._running.pop(reservation, None)
        if need is not None:
            self.used = _plus(self.used, need)

    @property
    def running(self) -> Amounts:
        return functools.reduce(_plus, self._running.values(), _NOTHING)

    @property
    def is_reported(self) -> bool:
        """Whether Redis knows what was spent. Before that it might admit a request of ours out of a lease that is spent."""
        return self._reported.is_set()

    async def until_reported(self, within_s: float) -> None:
        """Waits for the report, but no longer than that."""
        self._hurry()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._reported.wait()

    def shrink(self, ask: Ask) -> None:
        """Gives up what an ask took, or may have taken, from the lease in Redis."""
        need = _needs(ask)
        self.left = _minus(self.left, need)
        self._gone = _plus(self._gone, need)

    def give_up(self, *, for_good: bool = False) -> None:
        """Gives up all that is held, and what an answer under way may bring: it was granted under other limits."""
        self.left, self._is_given_up = _NOTHING, True
        if for_good:  # until somebody asks again
            self._rate = self._asks = 0

    def is_idle(self) -> bool:
        """Whether there is nothing to hold, to report or to want."""
        is_empty = self.left == _NOTHING and self.used == _NOTHING and not self._running
        return self._rate < _IDLE_RATE and not self._asks and is_empty and not self._is_given_up

    def is_pressing(self) -> bool:
        """Whether something was given up that Redis does not know, or requests come that no lease would cover if Redis went away now."""
        return self._is_given_up or (self._asks > 0 and self._now() >= self._usable_until)

    def wish(self, every_s: float = _RENEW_S) -> LeaseWish:
        """What to report and to want now, if that is asked so often. What is more than wanted is given up at once."""
        span_s = min(every_s, max(_RENEW_S, self._now() - self._wished_at))
        self._wished_at = self._now()
        self._rate += (1 - (1 - _WEIGHT) ** (span_s / _RENEW_S)) * (self._asks / span_s - self._rate)
        self._asks = 0
        requests = min(_MOST_REQUESTS, math.ceil(self._rate * _COVER_S)) if self._rate >= _IDLE_RATE else 0
        if self._now() >= self._usable_until:
            self.left = _NOTHING
        most = Amounts(*(requests * amount for amount in self._one))
        self.left = Amounts(*map(min, self.left, most))
        self._gone = self._spent = _NOTHING
        self._is_given_up = False
        return LeaseWish(self.model, self.used, self.left, requests, self._one, self.running)

    def renewed(self, wish: LeaseWish, held: Amounts, *, asked_at: float) -> None:
        """Takes over a lease; ``wish`` is what it was answered to, sent at ``asked_at``."""
        # What gave way to asks since then may or may not be missing in the answer already; it is given up in any case.
        self.left = _NOTHING if self._is_given_up else _minus(_minus(held, self._spent), self._gone)
        self.used = _minus(self.used, wish.used)
        self._usable_until = asked_at + LIFE_S - _MARGIN_S
        if self._spent == _NOTHING:
            self._reported.set()


class LeaseKeeper:
    """Renews the leases of one domain.

    Args:
        nodes: number of nodes that share the windows.
    """

    def __init__(self, ledger: DomainLedger, watch: StoreWatch, *, nodes: Callable[[], int]) -> None:
        self._ledger = ledger
        self._watch = watch
        self._nodes = nodes
        self._loop_time = asyncio.get_running_loop().time
        self._hurry = asyncio.Event()
        self.allowances = {
            model.id: Allowance(model.id, now=self._loop_time, hurry=self._hurry.set)
            for model in ledger.domain.models
        }
        self._sequence = itertools.count(1)
        self._is_recount_due = False
        self._renewed = asyncio.Event()
        self._pending: tuple[int, list[LeaseWish], float] | None = None
        self._renewed_at = -math.inf
        #: What was reported as spent and acknowledged: a server that forgot it has to hear it again.
        self._reports: deque[tuple[int, dict[str, Amounts]]] = deque(maxlen=_REPORTS_KEPT)
        watch.on_return(self._hurry.set)

    def follow(self, domain: DomainSpec, *, is_changed: bool) -> None:
        """Goes on under another configuration of the domain; if limits have changed, what is held is asked for anew."""
        for model in domain.models:
            if model.id not in self.allowances:
                self.allowances[model.id] = Allowance(model.id, now=self._loop_time, hurry=self._hurry.set)
        self._is_recount_due |= is_changed
        serving = {model.id for model in domain.models}
        for model_id, allowance in self.allowances.items():
            if is_changed or model_id not in serving:
                allowance.give_up(for_good=model_id not in serving)
        self._hurry.set()

    async def give_back(self, within_s: float) -> None:
        """Nobody needs the leases any more: the next renewal, which comes at once, hands them in. Waits for it, but no longer than that."""
        for allowance in self.allowances.values():
            allowance.give_up(for_good=True)
        self._hurry.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not all(allowance.is_idle() for allowance in self.allowances.values()):
                    self._renewed.clear()
                    await self._renewed.wait()

    async def run(self) -> None:
        """Renews whenever it is due while Redis answers, until cancelled."""
        is_urgent = False
        while True:
            if self._watch.connected and self._ledger.is_asserted and (is_urgent or self._is_due()):
                is_urgent = False
                await self._renew()
            try:
                async with asyncio.timeout(_RENEW_S):
                    await self._hurry.wait()
                is_urgent = True
            except TimeoutError:
                pass
            self._hurry.clear()

    def _is_due(self) -> bool:
        waited_s = self._loop_time() - self._renewed_at
        is_time = waited_s >= renewal_s(self._nodes()) - _RENEW_S / 2
        if is_time or self._is_recount_due or self._pending is not None:
            return True
        return any(allowance.is_pressing() for allowance in self.allowances.values())

    async def _renew(self) -> None:
        self._renewed_at = self._loop_time()
        try:
            await self._put_right()
            pending = self._next_report()
            if pending is None:
                return
            held = await self._send(*pending[:2])
        except TermChangedError:
            return
        except STORE_ERRORS as error:
            self._watch.report_failure(error)
            return
        self._take_over(*pending, held)

    async def _put_right(self) -> None:
        if self._is_recount_due:
            await self._ledger.recount_leases()
            self._is_recount_due = False

    async def assert_held(self, *, term: int, known: int) -> Amounts:
        """Tells a server what this node holds, and what it has spent since the renewal that the server knows; the latter.

        Raises:
            TermChangedError: that term is over.
            RedisError, OSError, TimeoutError: the store is away; the same is said again by the next try.
        """
        pending = self._next_report()
        lost = self._reported_after(known)
        if pending is None and not lost:
            return _NOTHING
        sequence, wishes, asked_at = pending or (next(self._sequence), [], self._loop_time())
        told = [replace(wish, used=_plus(wish.used, lost.pop(wish.model, _NOTHING))) for wish in wishes]
        told += [LeaseWish(model, used, _NOTHING, 0, _NOTHING) for model, used in lost.items()]
        held = await self._send(sequence, told, replay_in=term)
        self._take_over(sequence, wishes, asked_at, held[: len(wishes)])
        return functools.reduce(_plus, (wish.used for wish in told), _NOTHING)

    def _next_report(self) -> tuple[int, list[LeaseWish], float] | None:
        """What to say next. A report that may have been applied comes again as it was: the same sequence is never applied twice."""
        if self._pending is None:
            every_s = renewal_s(self._nodes())
            wishes = [a.wish(every_s) for a in self.allowances.values() if not a.is_idle()]
            if wishes:
                self._pending = (next(self._sequence), wishes, self._loop_time())
        return self._pending

    def _reported_after(self, known: int) -> dict[str, Amounts]:
        lost: dict[str, Amounts] = {}
        for sequence, report in self._reports:
            if sequence > known:
                for model, used in report.items():
                    lost[model] = _plus(lost.get(model, _NOTHING), used)
        return lost

    async def _send(self, sequence: int, wishes: list[LeaseWish], *, replay_in: int = 0) -> list[Amounts]:
        return await self._ledger.renew_leases(
            wishes,
            sequence=sequence,
            life_ms=round(LIFE_S * 1000),
            share=2 * max(1, self._nodes()),
            replay_in=replay_in,
        )

    def _take_over(
        self, sequence: int, wishes: list[LeaseWish], asked_at: float, held: list[Amounts]
    ) -> None:
        self._pending = None
        self._renewed.set()
        used = {wish.model: wish.used for wish in wishes if wish.used != _NOTHING}
        if used:
            self._reports.append((sequence, used))
        for wish, amounts in zip(wishes, held, strict=True):
            self.allowances[wish.model].renewed(wish, amounts, asked_at=asked_at)


def _needs(ask: Ask) -> Amounts:
    return Amounts(1, ask.tokens_in + ask.tokens_out, ask.tokens_in, ask.tokens_out, ask.cost_nano)


def _minus(one: Amounts, other: Amounts) -> Amounts:
    return Amounts(*(max(0, a - b) for a, b in zip(one, other, strict=True)))


def _plus(one: Amounts, other: Amounts) -> Amounts:
    return Amounts(*(a + b for a, b in zip(one, other, strict=True)))
