"""The journey of a call: plan, then for each target admit, send, relay, settle, until one has answered.

``serve`` reads like the table of contents; what an attempt does is in ``attempt.py``.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator, Mapping

from node.call import Call, Reply, Step, Target, Trail
from node.providers.headroom import headroom_told
from node.routing.admission import WITHOUT_STORE, ask_for_admission
from node.routing.attempt import Attempt
from node.routing.estimate import Estimate, estimate
from node.routing.fallbacks import Detours
from node.routing.gates import Gates, Walk, check_money
from node.routing.interrupts import Cause, Interrupted, Interrupts
from node.routing.lanes import Lane
from node.routing.pipeline import Pipeline, Plan
from node.routing.retry import Next, decide
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
from shared_state.ledger import Ask, Code, Settlement, Verdict

#: Pools fall back to each other, but a request does not try the whole world.
_MOST_ATTEMPTS = 10


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
        self._waiting = Waiting(pipeline)
        self._clock = clock
        self._reservations = reservations
        self._on_loss = on_loss
        self._gates = gates
        self._draw = draw
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
        refusals = await self._go_through(plan, reply, interrupts, trail, walk)
        if refusals is not None and refusals.may_wait:
            with interrupts:  # the deadline of the last candidate still runs
                await self._watch.until_open()
            refusals = await self._go_through(plan, reply, interrupts, trail, walk)
        if refusals is not None:
            raise refusals.error(plan, self._clock.now_ms())

    async def _go_through(
        self, plan: Plan, reply: Reply, interrupts: Interrupts, trail: Trail, walk: Walk | None
    ) -> Refusals | None:
        """Tries the targets in turn; why none of them has answered, if none has."""
        refusals = Refusals()
        if walk is not None:
            walk.reopen()
        waiting = list(plan.targets)
        detours = Detours(self._pipeline, plan)
        while waiting and trail.attempts < _MOST_ATTEMPTS:
            target = waiting.pop(0)
            follow_up = await self._try_target(
                plan, target, reply, interrupts, trail, refusals, walk, has_other=bool(waiting)
            )
            if follow_up is None:
                return None
            if follow_up is Next.STOP:
                waiting = await detours.after(target, refusals.errors[-1], waiting)
                trail.fallback, trail.skipped = plan.fallback, {**plan.skipped, **trail.skipped}
            elif follow_up is Next.SAME_PROVIDER:
                waiting.sort(key=lambda other, p=target.model.provider: other.model.provider != p)  # type: ignore[misc]
        return refusals

    async def _try_target(
        self,
        plan: Plan,
        target: Target,
        reply: Reply,
        interrupts: Interrupts,
        trail: Trail,
        refusals: Refusals,
        walk: Walk | None,
        *,
        has_other: bool,
    ) -> Next | None:
        """Tries one target until it answers (None) or the policy moves on."""
        call, lane, rules = plan.call, self._lanes[target.model.id], target.pool.config.retry
        own_s = math.inf if call.deadline_s is None else call.deadline_s
        deadline = call.started + min(own_s, rules.deadline if plan.fallback is None else plan.within_s)
        need = estimate(call, target.model, lane.token_room, lane.output_room)
        tries = 0
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
            tries += 1
            trail.attempts += 1
            trail.target = target
            is_reserved = verdict is not WITHOUT_STORE
            trail.mode = "exact" if is_reserved else self._on_loss
            attempt = Attempt(
                call,
                target,
                lane,
                reservation if is_reserved else next(self._reservations),
                reply,
                interrupts,
                trail,
                deadline=deadline,
                asked=asked,
                is_reserved=is_reserved,
            )
            try:
                with self._signals.under_way(target.model.id):
                    await _run(attempt, lane, reservation)
                self._hear(target.model.id, lane, attempt)
            except ProviderError as error:
                step.error = error
                refusals.errors.append(error)
                now = asyncio.get_running_loop().time()
                decision = decide(
                    error, rules, tries=tries, left_s=deadline - now, draw=self._draw(), has_other=has_other
                )
                if decision.next is not Next.SAME:
                    return decision.next
                if trail.attempts >= _MOST_ATTEMPTS:
                    return Next.STOP
                with interrupts:
                    await asyncio.sleep(decision.pause_s)
            else:
                return None
            finally:
                step.settlement = attempt.settlement
                _leave(walk, target, attempt.settlement)

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
        )
        interrupts.set_clock(deadline, Cause.DEADLINE)
        with interrupts:
            return await ask_for_admission(
                lane, ask, target.pool.config, watch=self._watch, on_loss=self._on_loss
            )


def _pass_over(
    target: Target, verdict: Verdict, refusals: Refusals, trail: Trail, *, prefix: str = ""
) -> Next:
    """Notes why a target was not tried; the next one is."""
    refusals.verdicts.append(verdict)
    trail.skipped[target.model.id] = prefix + (verdict.name or verdict.code.name.lower())
    return Next.OTHER


def _leave(walk: Walk | None, target: Target, settlement: Settlement | None) -> None:
    if walk is not None:
        walk.leave(target, settlement)


async def _run(attempt: Attempt, lane: Lane, reservation: str) -> None:
    """An attempt that was paid in advance takes its part of the allowance until it ends, however it ends."""
    try:
        await attempt.run()
    finally:
        lane.allowance.end(reservation)
