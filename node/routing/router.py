"""The journey of a call: plan, then for each target admit, send, relay, settle, until one has answered.

``serve`` reads like the table of contents; what an attempt does is in ``attempt.py``.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from node.call import Call, Reply, Step, Target, Trail
from node.passport import stamp
from node.providers.headroom import headroom_told
from node.routing.admission import WITHOUT_STORE, ask_for_admission
from node.routing.attempt import Attempt, Start
from node.routing.budget import RetryBudgets
from node.routing.estimate import Estimate, estimate
from node.routing.fallbacks import Detours
from node.routing.gates import Gates, Walk, check_money
from node.routing.hedger import Hedger
from node.routing.interrupts import Cause, Interrupted, Interrupts
from node.routing.lanes import Lane
from node.routing.pace import Pace
from node.routing.pipeline import Pipeline, Plan
from node.routing.race import Race
from node.routing.retry import Next, decide
from node.routing.tries import Tries
from node.routing.verdicts import Refusals
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
from shared_state.ledger import Ask, Code, How, Settlement, Verdict

#: A step of the ramp takes at least so long; see ``settle.lua``.
_RAMP_STEP_S: Final = 1.0
#: Calls beyond its share that a recovering model gets from this node when nobody else can serve.
_SPARES_PER_S: Final = 10.0
_SPARES_AT_ONCE: Final = 3
#: In panic a model is asked so often on faith alone; what it answers well pays for more. At one success in five nobody is held back.
_FAITH_PER_S: Final = 2.0
_FAITH_AT_MOST: Final = 10
_EARNED_BY_SUCCESS: Final = 5.0


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
        self._hedger = Hedger(lanes, watch, reservations, on_loss=on_loss, admit=self._admit, run=self._run)
        self._paces: dict[str, Pace] = {}
        self._faiths: dict[str, Pace] = {}
        self.in_flight = 0

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
        refusals, tries = await self._go_through(plan, reply, interrupts, trail, walk)
        if refusals is not None and refusals.may_wait:
            with interrupts:  # the deadline of the last candidate still runs
                await self._watch.until_open()
            refusals, tries = await self._go_through(plan, reply, interrupts, trail, walk)
        if refusals is not None:
            raise tries.explained(refusals.error(plan, self._clock.now_ms()))

    async def _go_through(
        self, plan: Plan, reply: Reply, interrupts: Interrupts, trail: Trail, walk: Walk | None
    ) -> tuple[Refusals | None, Tries]:
        """Tries the targets in turn; why none of them has answered, if none has."""
        refusals, billed = Refusals(), set[str]()
        if walk is not None:
            walk.reopen()
        waiting = list(plan.targets)
        detours = Detours(self._pipeline, plan)
        tries = Tries(trail, self._budgets.of(plan.members[0][0]), plan.call.passport)
        try:
            while waiting and tries.may_begin():
                target = waiting.pop(0)
                if self._is_crowd(plan, target) or self._has_lost_faith(target):
                    later = self._come_again()
                    trail.steps.append(Step(target, "", later, asyncio.get_running_loop().time()))
                    _pass_over(target, later, refusals, trail)
                    continue
                follow_up = await self._try_target(
                    plan, target, reply, interrupts, tries, walk, trail, refusals, waiting
                )
                if follow_up is None:
                    return None, tries
                if follow_up is Next.STOP:
                    waiting = await detours.after(target, refusals.errors[-1], waiting)
                    tries.take_detour()
                    trail.fallback, trail.skipped = plan.fallback, {**plan.skipped, **trail.skipped}
                elif follow_up is Next.OTHER_ACCOUNT:
                    billed.add(target.model.domain)
                elif follow_up is Next.SAME_PROVIDER:
                    waiting.sort(key=lambda other, p=target.model.provider: other.model.provider != p)  # type: ignore[misc]
                if billed:
                    waiting = _elsewhere(waiting, billed, trail)
        finally:
            tries.close(waiting)
        return refusals, tries

    async def _try_target(
        self,
        plan: Plan,
        target: Target,
        reply: Reply,
        interrupts: Interrupts,
        tries: Tries,
        walk: Walk | None,
        trail: Trail,
        refusals: Refusals,
        others: list[Target],
    ) -> Next | None:
        """Tries one target until it answers (None) or the policy moves on; who is asked beside it is not among the others any more."""
        call, lane, rules = plan.call, self._lanes[target.model.id], target.pool.config.retry
        own_s = math.inf if call.deadline_s is None else call.deadline_s
        deadline = call.started + min(own_s, rules.deadline if plan.fallback is None else plan.within_s)
        need = estimate(call, target.model, lane.token_room, lane.output_room)
        tried = 0
        while True:
            closed = await walk.admit(target, interrupts, deadline) if walk is not None else None
            if closed is not None:
                now = asyncio.get_running_loop().time()
                trail.steps.append(Step(target, "", closed, now, is_gate=True))
                return _pass_over(target, closed, refusals, trail, prefix="pool:")
            reservation, asked = next(self._reservations), asyncio.get_running_loop().time()
            verdict = await self._admit(target, lane, reservation, need, interrupts, deadline)
            step = Step(target, reservation, verdict, asked)
            trail.steps.append(step)
            if verdict.code != Code.ADMITTED:
                _leave(walk, target, None)
                check_money(verdict, target, self._clock.now_ms())
                return _pass_over(target, verdict, refusals, trail)
            if plan.on_admitted is not None:
                plan.on_admitted()
            tried += 1
            tries.begin()
            trail.target, trail.is_panic = target, target.how is How.DESPITE
            is_reserved = verdict is not WITHOUT_STORE
            trail.mode = "exact" if is_reserved else self._on_loss
            start = Start(
                call,
                target,
                lane,
                reservation if is_reserved else next(self._reservations),
                deadline=deadline,
                asked=asked,
                passport=stamp(
                    call.passport, attempts=tries.for_next(has_other=bool(others)), left_s=deadline - asked
                ),
                is_reserved=is_reserved,
                charged=reservation,
                step=step,
                most_out=need.tokens_out if lane.spends_money or _spends_money(walk) else None,
            )
            attempt = start.attempt(reply, interrupts, trail)
            try:
                await self._carry(plan, start, attempt, verdict, tries, walk, others, refusals)
            except ProviderError as error:
                refusals.errors.append(error)
                tries.failed(error)
                now = asyncio.get_running_loop().time()
                decision = decide(
                    error,
                    rules,
                    tries=max(tried, rules.max_attempts) if call.passport.is_repeat else tried,
                    left_s=deadline - now,
                    draw=self._draw(),
                    has_other=bool(others),
                )
                if decision.next is not Next.SAME:
                    return decision.next
                if call.is_probe:
                    return Next.OTHER
                if not tries.may_begin():
                    return Next.STOP
                with interrupts:
                    await asyncio.sleep(decision.pause_s)
            else:
                return None
            finally:
                _leave(walk, target, step.settlement)

    async def _carry(
        self,
        plan: Plan,
        start: Start,
        attempt: Attempt,
        verdict: Verdict,
        tries: Tries,
        walk: Walk | None,
        others: list[Target],
        refusals: Refusals,
    ) -> None:
        """Carries an admitted attempt to its end, if it is slow with another beside it."""
        delay_s = self._hedger.delay_s(plan, start.target, verdict, tries, walk, others)
        if delay_s is None:
            await self._run(start, attempt)
        else:
            await self._hedger.race(plan, start, others, delay_s, Race(*attempt.ends), tries, refusals)

    async def _run(self, start: Start, attempt: Attempt) -> None:
        """An attempt that was paid in advance takes its part of the allowance until it ends, however it ends."""
        model = start.target.model.id
        try:
            with self._signals.under_way(model):
                await attempt.run()
        except ProviderError as error:
            start.step.error = error
            raise
        except Interrupted:
            self._hedger.note(start.target, attempt.waited_s)  # who lost a race took that long at least
            raise
        finally:
            start.step.settlement = attempt.settlement
            start.lane.allowance.end(start.charged)
        self._hedger.note(start.target, attempt.waited_s)
        if start.target.how is How.DESPITE:
            self._faith_in(start.target).earn(_EARNED_BY_SUCCESS)
        self._hear(model, start.lane, attempt)

    def _is_crowd(self, plan: Plan, target: Target) -> bool:
        """Whether a target recovers, with its share used up, and has got more than a few such calls just now: a crowd must not follow its trial."""
        if not any(spare is target for spare in plan.reserve):
            return False
        pace = self._paces.setdefault(target.model.id, Pace(_SPARES_PER_S, _SPARES_AT_ONCE))
        return not pace.take(asyncio.get_running_loop().time())

    def _has_lost_faith(self, target: Target) -> bool:
        """Whether a model that is asked despite its illness has answered too little of late: no storm on what is down."""
        if target.how is not How.DESPITE:
            return False
        return not self._faith_in(target).take(asyncio.get_running_loop().time())

    def _faith_in(self, target: Target) -> Pace:
        return self._faiths.setdefault(target.model.id, Pace(_FAITH_PER_S, _FAITH_AT_MOST))

    def _come_again(self) -> Verdict:
        """Once the ramp has risen, and not all at once."""
        pause_ms = round(_RAMP_STEP_S * 1000 * (1 + self._draw()))
        return Verdict(Code.STANDBY, self._clock.now_ms() + pause_ms, "ramp")

    def _hear(self, model: str, lane: Lane, attempt: Attempt) -> None:
        """What the provider has said of its limits, for the next ranking."""
        if attempt.headers is not None and self._signals.wants(model):
            dialect = lane.connector.provider.connector.dialect
            self._signals.tell(model, headroom_told(attempt.headers.raw, dialect=dialect))

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


def _elsewhere(waiting: list[Target], billed: set[str], trail: Trail) -> list[Target]:
    """The targets on accounts that cannot have been billed for this call already."""
    for target in waiting:
        if target.model.domain in billed:
            trail.skipped[target.model.id] = "maybe_billed"
    return [target for target in waiting if target.model.domain not in billed]


def _pass_over(
    target: Target, verdict: Verdict, refusals: Refusals, trail: Trail, *, prefix: str = ""
) -> Next:
    """Notes why a target was not tried; the next one is."""
    refusals.verdicts.append(verdict)
    trail.skipped[target.model.id] = prefix + (verdict.name or verdict.code.name.lower())
    return Next.OTHER


def _spends_money(walk: Walk | None) -> bool:
    return walk is not None and walk.spends_money


def _leave(walk: Walk | None, target: Target, settlement: Settlement | None) -> None:
    if walk is not None:
        walk.leave(target, settlement)
