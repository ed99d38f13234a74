"""Hedges: a second attempt beside a request's first, on the next candidate, if the share, the budget and its limits allow it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping

from node.call import Step, Target
from node.passport import stamp
from node.routing.admission import WITHOUT_STORE
from node.routing.attempt import Attempt
from node.routing.estimate import Estimate, estimate
from node.routing.hedging import Hedging, is_ordinary
from node.routing.interrupts import Interrupts
from node.routing.journey import Journey
from node.routing.lanes import Lane
from node.routing.race import Race
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
        self._shares = Hedging()
        self.note = self._shares.note

    def delay_s(self, journey: Journey, start: Start) -> float | None:
        """After how long without content another attempt may be made beside a request's first one; None for never."""
        target = start.target
        rules = target.pool.config.hedge
        if rules is None or not journey.tries.is_first:
            return None
        delay_s = self._shares.delay_s(target, rules)
        is_alone = journey.walk is not None or not journey.others
        if is_alone or start.step.verdict.trial or not is_ordinary(journey.plan, target):
            return None
        return delay_s if self._shares.may_begin(target) else None

    async def race(self, journey: Journey, start: Start, delay_s: float, race: Race) -> None:
        """An attempt, and if it is slow another beside it.

        Raises:
            ProviderError: both have failed, or the only one; this is the first one's error.
        """

        def enter(start: Start) -> None:
            mode = "exact" if start.is_reserved else self._on_loss
            race.enter(start.target, mode, lambda *ends: self._run(start, start.attempt(*ends)))

        async def second(race: Race) -> None:
            hedge = await self._hedge(journey, start, race)
            if hedge is not None:
                enter(hedge)

        enter(start)
        try:
            await race.run(delay_s, second)
        finally:
            for target, error in race.other_failures():
                journey.refusals.errors.append(error.with_traceback(None))
                if error.may_be_billed:
                    _keep_off(journey.others, target, start.target.pool.config.retry.maybe_billed)

    async def _hedge(self, journey: Journey, start: Start, race: Race) -> Start | None:
        """Another attempt beside one, if somebody can serve it, the share allows it and it can reserve; else None."""
        plan, tries, others = journey.plan, journey.tries, journey.others
        target = next((other for other in others if is_ordinary(plan, other)), None)
        if target is None or not self._watch.connected or not self._shares.may_begin(start.target):
            return None
        if not await tries.take_hedge():
            return None
        lane, deadline = self._lanes[target.model.id], start.deadline
        need = estimate(plan.call, target.model, lane.token_room, lane.output_room)
        reservation, asked = next(self._reservations), asyncio.get_running_loop().time()
        hedge = None
        try:
            verdict = await self._admit(target, lane, reservation, need, race.interrupts, deadline)
            step = Step(target, reservation, verdict, asked)
            race.trail.steps.append(step)
            if verdict.code is Code.ADMITTED and verdict is not WITHOUT_STORE:
                if verdict.trial or not race.is_open:
                    _give_back(lane, target, reservation)
                else:
                    passport = stamp(plan.call.passport, attempts=1, left_s=deadline - asked)
                    hedge = Start(
                        plan.call,
                        target,
                        lane,
                        reservation,
                        deadline=deadline,
                        asked=asked,
                        passport=passport,
                        is_reserved=True,
                        charged=reservation,
                        step=step,
                        most_out=need.tokens_out if lane.spends_money else None,
                    )
        finally:
            if hedge is None:
                tries.drop_hedge()
        if hedge is not None:
            others.remove(target)
            tries.begin_hedge()
            self._shares.begin(start.target)
        return hedge


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
