"""Hedges: a second attempt beside a request's first, on the next candidate, if the share, the budget and its limits allow it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping

from node.call import Call, Reply, Step, Target, Trail
from node.passport import stamp
from node.routing.admission import WITHOUT_STORE
from node.routing.attempt import Attempt
from node.routing.estimate import Estimate, estimate
from node.routing.gates import Walk
from node.routing.hedging import Hedging, is_ordinary
from node.routing.interrupts import Interrupts
from node.routing.journey import Journey
from node.routing.lanes import Lane
from node.routing.race import Body, Race
from node.routing.slowness import Slowness
from node.routing.start import Start
from node.watch import StoreWatch
from shared_state.ledger import NOT_SENT, Code, Outcome, Settlement, Verdict

Admit = Callable[[Target, Lane, str, Estimate, Interrupts, float], Awaitable[Verdict]]


class Hedger:
    """Makes the hedges of one node.

    Args:
        admit: asks for admission.
        run: carries an attempt to its end.
    """

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        watch: StoreWatch,
        reservations: Iterator[str],
        slowness: Slowness,
        *,
        on_loss: str,
        admit: Admit,
        run: Callable[[Start, Attempt], Awaitable[None]],
    ) -> None:
        self._lanes = lanes
        self._watch = watch
        self._reservations = reservations
        self._on_loss = on_loss
        self._admit = admit
        self._run = run
        self._shares = Hedging(slowness)
        self.note = self._shares.note

    def delay_s(self, journey: Journey, start: Start) -> float | None:
        """After how long without content another attempt may be made beside a request's first one; None for never."""
        target = start.target
        rules = target.pool.config.hedge
        if rules is None or not journey.tries.is_first:
            return None
        delay_s = self._shares.delay_s(target, rules)
        if not journey.others or start.step.verdict.trial or not is_ordinary(journey.plan, target):
            return None
        return delay_s if self._shares.may_begin(target) else None

    async def race(self, journey: Journey, start: Start, delay_s: float, race: Race) -> None:
        """An attempt, and if it is slow another beside it.

        Raises:
            ProviderError: both have failed, or the only one; this is the first one's error.
        """
        mode = "exact" if start.is_reserved else self._on_loss
        race.enter(start.target, mode, lambda *ends: self._run(start, start.attempt(*ends)))
        try:
            await race.run(delay_s, lambda race: self._hedge(journey, start, race))
        finally:
            for target, error in race.other_failures():
                journey.refusals.errors.append(error.with_traceback(None))
                if error.may_be_billed:
                    _keep_off(journey.others, target, start.target.pool.config.retry.maybe_billed)

    async def _hedge(self, journey: Journey, start: Start, race: Race) -> None:
        """Another attempt beside one, if somebody can serve it, the share allows it and it can reserve everywhere."""
        plan, tries = journey.plan, journey.tries
        target = next((other for other in journey.others if is_ordinary(plan, other)), None)
        if target is None or not self._watch.connected or not self._shares.may_begin(start.target):
            return
        if not await tries.take_hedge():
            return
        walk = None if journey.walk is None else journey.walk.beside()
        hedge = None
        try:
            if walk is None or await walk.admits_beside(target, race.interrupts, start.deadline):
                hedge = await self._reserve(plan.call, target, walk, race, start.deadline)
        finally:
            if hedge is None:
                tries.drop_hedge()
                if walk is not None:
                    walk.end()
        if hedge is not None:
            journey.others.remove(target)
            tries.begin_hedge()
            self._shares.begin(start.target)
            race.enter(target, "exact", self._body(hedge, walk))

    async def _reserve(
        self, call: Call, target: Target, walk: Walk | None, race: Race, deadline: float
    ) -> Start | None:
        """The attempt, if its model admits it in time and not as a trial."""
        if not race.is_open:  # decided while gates were asked
            return None
        lane = self._lanes[target.model.id]
        need = estimate(call, target.model, lane.token_room, lane.output_room)
        reservation, asked = next(self._reservations), asyncio.get_running_loop().time()
        verdict = await self._admit(target, lane, reservation, need, race.interrupts, deadline)
        step = Step(target, reservation, verdict, asked)
        race.trail.steps.append(step)
        if verdict.code is not Code.ADMITTED or verdict is WITHOUT_STORE:
            return None
        if verdict.trial or not race.is_open:
            _give_back(lane, target, reservation)
            return None
        spends_money = lane.spends_money or (walk is not None and walk.spends_money)
        return Start(
            call,
            target,
            lane,
            reservation,
            deadline=deadline,
            asked=asked,
            passport=stamp(call.passport, attempts=1, left_s=deadline - asked),
            is_reserved=True,
            charged=reservation,
            step=step,
            most_out=need.tokens_out if spends_money else None,
        )

    def _body(self, hedge: Start, walk: Walk | None) -> Body:
        """Carries it to its end, at its gates too."""

        async def body(reply: Reply, interrupts: Interrupts, trail: Trail) -> None:
            try:
                await self._run(hedge, hedge.attempt(reply, interrupts, trail))
            finally:
                if walk is not None:
                    walk.leave(hedge.target, hedge.step.settlement)
                    walk.end()

        return body


def _give_back(lane: Lane, target: Target, reservation: str) -> None:
    """Nothing is sent under this reservation."""
    lane.allowance.end(reservation)
    lane.batcher.settle(
        Settlement(
            reservation,
            target.model.id,
            target.pool.config,
            Outcome.NEUTRAL,
            pool_id=target.pool.id,
            flags=NOT_SENT,
        )
    )


def _keep_off(others: list[Target], billed: Target, rule: str) -> None:
    """The same rule for an attempt that ran beside another."""
    if rule == "never":
        others.clear()
    elif rule == "other_account":
        others[:] = [other for other in others if other.model.domain != billed.model.domain]
