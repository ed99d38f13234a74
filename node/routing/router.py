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
from node.providers.headroom import headroom_told
from node.routing.attempt import Attempt
from node.routing.estimate import Estimate, estimate
from node.routing.fallbacks import Detours
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
from shared_state.ledger import Ask, Code, Verdict

#: Admitted while Redis is away: out of a lease, or because nothing is limited.
_WITHOUT_STORE: Final = Verdict(Code.ADMITTED)
_AWAY: Final = Verdict(Code.STORE_AWAY)
#: How long a request waits, once Redis is back, until it knows what was spent meanwhile.
_REPORT_S: Final = 0.25
#: Pools fall back to each other, but a request does not try the whole world.
_MOST_ATTEMPTS = 10


class Router:
    """Serves calls.

    Args:
        lanes: model id -> the way to it.
        reservations: source of reservation ids of this node.
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
        try:
            plan = await self._pipeline.plan(call, trail)
            trail.skipped, trail.fallback = dict(plan.skipped), plan.fallback
            await self._waiting.carry(
                plan, lambda plan: self._try_targets(plan, reply, interrupts, trail), interrupts, trail
            )
        except Interrupted as interrupted:
            if interrupted.cause is Cause.GONE:
                raise ClientDisconnectedError("the client has left") from None
            raise DeadlineExceededError(f"no answer within the deadline of {call.name!r}") from None
        finally:
            interrupts.close()
            self.in_flight -= 1

    async def _try_targets(self, plan: Plan, reply: Reply, interrupts: Interrupts, trail: Trail) -> None:
        refusals = Refusals()
        waiting = list(plan.targets)
        detours = Detours(self._pipeline, plan)
        while waiting and trail.attempts < _MOST_ATTEMPTS:
            target = waiting.pop(0)
            follow_up = await self._try_target(
                plan, target, reply, interrupts, trail, refusals, has_other=bool(waiting)
            )
            if follow_up is None:
                return
            if follow_up is Next.STOP:
                waiting = await detours.after(target, refusals.errors[-1], waiting)
                trail.fallback, trail.skipped = plan.fallback, {**plan.skipped, **trail.skipped}
            elif follow_up is Next.SAME_PROVIDER:
                waiting.sort(key=lambda other, p=target.model.provider: other.model.provider != p)  # type: ignore[misc]
        raise refusals.error(plan, self._clock.now_ms())

    async def _try_target(
        self,
        plan: Plan,
        target: Target,
        reply: Reply,
        interrupts: Interrupts,
        trail: Trail,
        refusals: Refusals,
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
            reservation, asked = next(self._reservations), asyncio.get_running_loop().time()
            verdict = await self._admit(target, lane, reservation, need, interrupts, deadline)
            step = Step(target, reservation, verdict, asked)
            trail.steps.append(step)
            if verdict.code != Code.ADMITTED:
                refusals.verdicts.append(verdict)
                trail.skipped[target.model.id] = verdict.name or verdict.code.name.lower()
                return Next.OTHER
            if plan.on_admitted is not None:
                plan.on_admitted()
            tries += 1
            trail.attempts += 1
            trail.target = target
            is_reserved = verdict is not _WITHOUT_STORE
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
            verdict = await self._ask(lane, ask, target)
        if verdict.code is Code.ADMITTED:
            lane.allowance.note(ask)
            if verdict.from_lease:
                lane.allowance.shrink(ask)
        elif verdict.code in (Code.STORE_AWAY, Code.HELD):
            if verdict.in_doubt:
                lane.allowance.shrink(ask)
            if self._may_go_without(lane, ask):
                return _WITHOUT_STORE
        return verdict

    async def _ask(self, lane: Lane, ask: Ask, target: Target) -> Verdict:
        """Asks Redis, once it knows what was spent while it was away."""
        if self._watch.connected and not self._watch.held and not lane.allowance.is_reported:
            await lane.allowance.until_reported(_REPORT_S)
            if not lane.allowance.is_reported:
                return _AWAY
        return await lane.batcher.admit(ask, target.pool.config)

    def _may_go_without(self, lane: Lane, ask: Ask) -> bool:
        """Whether a call may go out while Redis is away or held after a loss: nothing to exceed, paid in advance, or the deployment prefers availability."""
        if self._on_loss == "leased":
            return not lane.is_limited or lane.allowance.spend(ask)
        return self._on_loss == "open"


async def _run(attempt: Attempt, lane: Lane, reservation: str) -> None:
    """An attempt that was paid in advance takes its part of the allowance until it ends, however it ends."""
    try:
        await attempt.run()
    finally:
        lane.allowance.end(reservation)
