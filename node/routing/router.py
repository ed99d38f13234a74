"""The journey of a call: plan, then for each target admit, send, relay, settle, until one has answered.

``serve`` reads like the table of contents; what an attempt does is in ``attempt.py``.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator, Mapping

from node.call import Call, Reply, Step, Target, Trail
from node.passport import stamp
from node.providers.headroom import headroom_told
from node.routing.admission import WITHOUT_STORE, ask_for_admission
from node.routing.attempt import Attempt
from node.routing.budget import RetryBudgets
from node.routing.counting import Counter
from node.routing.estimate import Estimate, estimate
from node.routing.fallbacks import Detours
from node.routing.gates import Gates, Walk, check_money
from node.routing.hedger import Hedger
from node.routing.interrupts import Cause, Interrupted, Interrupts
from node.routing.journey import Journey
from node.routing.lanes import Lane
from node.routing.pipeline import Pipeline, Plan
from node.routing.race import Race
from node.routing.restraint import Faith, Restraint
from node.routing.retry import Next, decide
from node.routing.slowness import Slowness
from node.routing.start import Start
from node.routing.tries import Tries
from node.routing.waiting import Waiting
from node.signals import Signals
from node.watch import StoreWatch
from shared_state.clock import ServerClock
from shared_state.errors import (
    ClientDisconnectedError,
    DeadlineExceededError,
    ProviderError,
    StateUnavailableError,
)
from shared_state.ledger import Ask, Code, How, Verdict


class Router:
    """Serves calls.

    Args:
        lanes: model id -> the way to it.
        reservations: source of reservation ids of this node.
        gates: what calls pass before their candidates; None if there is nothing.
        draw: uniform numbers in [0, 1) for jitter.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        lanes: Mapping[str, Lane],
        watch: StoreWatch,
        signals: Signals,
        budgets: RetryBudgets,
        slowness: Slowness,
        *,
        clock: ServerClock,
        reservations: Iterator[str],
        on_loss: str,
        gates: Gates | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._pipeline = pipeline
        self._lanes = lanes
        self._watch = watch
        self._signals = signals
        self._budgets = budgets
        self._waiting = Waiting(pipeline)
        self._clock = clock
        self._reservations = reservations
        self._on_loss = on_loss
        self._gates = gates
        self._draw = draw
        self._hedger = Hedger(
            lanes, watch, reservations, slowness, on_loss=on_loss, admit=self._admit, run=self._run
        )
        self._restraint = Restraint(clock, draw)
        self.counter = Counter(pipeline, lanes)
        self.in_flight = 0

    def queued(self, pool: str) -> int:
        """How many requests wait in the queue of a pool on this node."""
        return self._waiting.length(pool)

    @property
    def faith(self) -> Faith:
        """What was asked of models that are away for their health."""
        return self._restraint.faith

    @property
    def is_ready(self) -> bool:
        """Whether the shared state was seen once."""
        return self._pipeline.is_ready

    async def serve(self, call: Call, reply: Reply, interrupts: Interrupts, trail: Trail) -> None:
        """Answers a call, whatever it takes within its deadline.

        Raises:
            ModelMeshError: nobody could answer and nothing was sent to the caller yet.
            ClientDisconnectedError: the caller has left.
        """
        if not self.is_ready:
            raise StateUnavailableError("the node has not seen the shared state yet", retry_after_s=1.0)
        self.in_flight += 1
        walk: Walk | None = None
        try:
            plan = await self._pipeline.plan(call, trail)
            if self._gates is not None:
                walk = self._gates.walk(plan)
            trail.skipped, trail.fallback = dict(plan.skipped), plan.fallback
            await self._waiting.carry(
                plan, lambda plan: self._try_targets(plan, reply, interrupts, trail, walk), interrupts, trail
            )
        except Interrupted as interrupted:
            if interrupted.cause is Cause.GONE:
                raise ClientDisconnectedError("the client has left") from None
            raise DeadlineExceededError(f"no answer within the deadline of {call.name!r}") from None
        finally:
            if walk is not None:
                walk.end()
            interrupts.close()
            self.in_flight -= 1

    async def _try_targets(
        self, plan: Plan, reply: Reply, interrupts: Interrupts, trail: Trail, walk: Walk | None
    ) -> None:
        journey = self._set_out(plan, reply, interrupts, trail, walk)
        if await self._has_served(journey):
            return
        if journey.refusals.may_wait:
            with interrupts:  # the deadline of the last candidate still runs
                await self._watch.until_open()
            journey = self._set_out(plan, reply, interrupts, trail, walk)
            if await self._has_served(journey):
                return
        raise journey.tries.explained(journey.refusals.error(plan, self._clock.now_ms()))

    def _set_out(
        self, plan: Plan, reply: Reply, interrupts: Interrupts, trail: Trail, walk: Walk | None
    ) -> Journey:
        if walk is not None:
            walk.reopen()
        tries = Tries(trail, self._budgets.of(plan.members[0][0]), plan.call.passport)
        return Journey(plan, reply, interrupts, trail, walk, tries, list(plan.targets))

    async def _has_served(self, journey: Journey) -> bool:
        """Tries the targets in turn; whether one of them has answered."""
        detours, tries = Detours(self._pipeline, journey.plan), journey.tries
        try:
            while journey.others and tries.may_begin():
                target = journey.others.pop(0)
                later = self._restraint.verdict(journey.plan, target)
                if later is not None:
                    journey.trail.steps.append(Step(target, "", later, asyncio.get_running_loop().time()))
                    journey.pass_over(target, later)
                    continue
                follow_up = await self._try_target(journey, target)
                if follow_up is None:
                    return True
                await self._follow(journey, target, follow_up, detours)
        finally:
            tries.close(journey.others)
        return False

    async def _follow(self, journey: Journey, target: Target, follow_up: Next, detours: Detours) -> None:
        """What the policy makes of a failure: who is left, and in which order."""
        plan, trail = journey.plan, journey.trail
        if follow_up is Next.STOP:
            journey.others = await detours.after(target, journey.refusals.errors[-1], journey.others)
            journey.tries.take_detour()
            trail.fallback, trail.skipped = plan.fallback, {**plan.skipped, **trail.skipped}
        elif follow_up is Next.OTHER_ACCOUNT:
            journey.billed.add(target.model.domain)
        elif follow_up is Next.SAME_PROVIDER:
            journey.prefer(target.model.provider)
        journey.stay_off_billed()

    async def _try_target(self, journey: Journey, target: Target) -> Next | None:
        """Tries one target until it answers (None) or the policy moves on; who is asked beside it is not among the others any more."""
        call, plan, rules = journey.call, journey.plan, target.pool.config.retry
        own_s = math.inf if call.deadline_s is None else call.deadline_s
        deadline = call.started + min(own_s, rules.deadline if plan.fallback is None else plan.within_s)
        tried = 0
        while True:
            start = await self._admit_target(journey, target, deadline)
            if start is None:
                return Next.OTHER
            tried += 1
            try:
                await self._carry(journey, start)
            except ProviderError as error:
                journey.refusals.errors.append(error.with_traceback(None))
                await journey.tries.failed(error)
                decision = decide(
                    error,
                    rules,
                    tries=max(tried, rules.max_attempts) if call.passport.is_repeat else tried,
                    left_s=deadline - asyncio.get_running_loop().time(),
                    draw=self._draw(),
                    has_other=bool(journey.others),
                )
                if decision.next is not Next.SAME:
                    return decision.next
                if call.is_probe:
                    return Next.OTHER
                if not journey.tries.may_begin():
                    return Next.STOP
                with journey.interrupts:
                    await asyncio.sleep(decision.pause_s)
            else:
                journey.tries.answered()
                return None
            finally:
                journey.leave_gates(target, start.step.settlement)

    async def _admit_target(self, journey: Journey, target: Target, deadline: float) -> Start | None:
        """Passes the gates and reserves; None if the target does not admit the call."""
        call, plan, trail, lane = journey.call, journey.plan, journey.trail, self._lanes[target.model.id]
        closed = (
            await journey.walk.admit(target, journey.interrupts, deadline)
            if journey.walk is not None
            else None
        )
        if closed is not None:
            now = asyncio.get_running_loop().time()
            trail.steps.append(Step(target, "", closed, now, is_gate=True))
            journey.pass_over(target, closed, prefix="pool:")
            return None
        need = estimate(call, target.model, lane.token_room, lane.output_room)
        reservation, asked = next(self._reservations), journey.interrupts.loop.time()
        verdict = await self._admit(target, lane, reservation, need, journey.interrupts, deadline)
        step = Step(target, reservation, verdict, asked)
        trail.steps.append(step)
        if verdict.code != Code.ADMITTED:
            journey.leave_gates(target, None)
            check_money(verdict, target, lane.connector.provider.config.limits, self._clock.now_ms())
            journey.pass_over(target, verdict)
            return None
        if plan.on_admitted is not None:
            plan.on_admitted()
        journey.tries.begin()
        trail.target, trail.is_panic = target, target.how is How.DESPITE
        self._restraint.note_start(target)
        is_reserved = verdict is not WITHOUT_STORE
        trail.mode = "exact" if is_reserved else self._on_loss
        attempts = journey.tries.for_next(has_other=bool(journey.others))
        return Start(
            call,
            target,
            lane,
            reservation if is_reserved else next(self._reservations),
            deadline=deadline,
            asked=asked,
            passport=stamp(call.passport, attempts=attempts, left_s=deadline - asked),
            is_reserved=is_reserved,
            charged=reservation,
            step=step,
            most_out=need.tokens_out if lane.spends_money or journey.spends_money else None,
        )

    async def _carry(self, journey: Journey, start: Start) -> None:
        """Carries an admitted attempt to its end, if it is slow with another beside it."""
        attempt = start.attempt(journey.reply, journey.interrupts, journey.trail)
        delay_s = self._hedger.delay_s(journey, start)
        if delay_s is None:
            await self._run(start, attempt)
        else:
            await self._hedger.race(journey, start, delay_s, Race(*attempt.ends))

    async def _run(self, start: Start, attempt: Attempt) -> None:
        """An attempt that was paid in advance takes its part of the allowance until it ends, however it ends."""
        model = start.target.model.id
        self._signals.begin(model)
        try:
            await attempt.run()
        except ProviderError as error:
            start.step.error = error
            raise
        except Interrupted:
            self._hedger.note(
                start.target, start.reservation, attempt.waited_s
            )  # who lost a race took that long at least
            raise
        finally:
            self._signals.end(model)
            start.step.settlement = attempt.settlement
            start.lane.allowance.end(start.charged)
        self._hedger.note(start.target, start.reservation, attempt.waited_s)
        self._restraint.note_success(start.target)
        self._hear(model, start.lane, attempt)

    def _hear(self, model: str, lane: Lane, attempt: Attempt) -> None:
        """What the provider has said of its limits, for the next ranking."""
        if attempt.limits_told and self._signals.wants(model):
            dialect = lane.connector.provider.connector.dialect
            self._signals.tell(model, headroom_told(attempt.limits_told, dialect=dialect))

    async def _admit(
        self,
        target: Target,
        lane: Lane,
        reservation: str,
        need: Estimate,
        interrupts: Interrupts,
        deadline: float,
    ) -> Verdict:
        ask = Ask(
            reservation,
            target.model.id,
            target.pool.id,
            need.tokens_in,
            need.tokens_out,
            need.cost_nano,
            lane.lease_ms,
            how=target.how,
        )
        interrupts.set_clock(deadline, Cause.DEADLINE)
        with interrupts:
            return await ask_for_admission(
                lane, ask, target.pool.config, watch=self._watch, on_loss=self._on_loss
            )
