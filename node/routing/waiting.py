"""Requests that rather wait than switch: `rate_limit.action` of `delay_request` and `queue`.

A pool with one of them holds a request while its preferred model is near a limit, and when every model is at one, as long as `max_wait` and
the request's deadline allow. In a queue the first who came is the first who is admitted, and who finds it full is refused at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final

from node.call import Trail
from node.routing.interrupts import Cause, Interrupts
from node.routing.pipeline import Pipeline, Plan
from node.routing.ranking import Ranker, limit_rules
from node.routing.strategies.rate_limit_aware import is_near_limit
from shared_state.config.strategies import RateLimitConfig
from shared_state.errors import LimitReachedError
from shared_state.topology import PoolSpec

#: Room may appear earlier than was said: answers that are shorter than expected give tokens back.
_LOOK_EVERY_S: Final = 0.25
_USUAL_WAIT_S: Final = 1.0
#: A hold ends this much before the request's deadline: being told when to come back is worth more than a timeout.
_SPARE_S: Final = 0.02


class Line:
    """The requests of one pool that wait on this node, in order of arrival; ``lock`` belongs to the first."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.length = 0


class Hold:
    """One request of a pool that waits. Use it as a context manager around everything up to its admission."""

    def __init__(
        self,
        pool: PoolSpec,
        rules: RateLimitConfig,
        line: Line,
        ranker: Ranker,
        interrupts: Interrupts,
        *,
        deadline: float,
    ) -> None:
        now = asyncio.get_running_loop().time()
        self._pool = pool
        self._rules = rules
        self._line = line if rules.action == "queue" else None
        self._ranker = ranker
        self._interrupts = interrupts
        self._deadline = deadline
        self._until = min(deadline - _SPARE_S, now + rules.max_wait)
        self._is_first = False
        interrupts.set_clock(deadline, Cause.DEADLINE)

    def __enter__(self) -> Hold:
        if self._line is not None:
            if self._line.length >= self._rules.queue_size:
                raise LimitReachedError(
                    f"{self._line.length} requests wait for pool {self._pool.id!r} already",
                    retry_after_s=_USUAL_WAIT_S,
                )
            self._line.length += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Makes room for the next in line: this request was admitted, or has given up. May be called twice."""
        if self._line is not None:
            self._line.length -= 1
            if self._is_first:
                self._line.lock.release()
            self._line = None

    async def turn(self) -> bool:
        """Waits until everybody who came earlier was admitted or has given up; whether that took any time.

        Raises:
            LimitReachedError: not within the longest hold.
        """
        if self._line is None:
            return False
        was_taken = self._line.lock.locked()
        try:
            with self._interrupts:
                async with asyncio.timeout_at(self._until):
                    await self._line.lock.acquire()
                    self._is_first = True  # at once: who is interrupted here must not leave the door locked
        except TimeoutError:
            raise LimitReachedError(
                f"no room in pool {self._pool.id!r} within {self._rules.max_wait:g} s",
                retry_after_s=_USUAL_WAIT_S,
            ) from None
        return was_taken

    def must_wait(self, plan: Plan) -> bool:
        """Whether the preferred model is near a limit, and there is time left to wait."""
        if not plan.targets or asyncio.get_running_loop().time() >= self._until:
            return False
        return is_near_limit(plan.targets[0].model, self._rules, self._ranker.hints_of(self._pool))

    async def pause(self, refused: LimitReachedError | None = None) -> None:
        """Waits a moment before the next look.

        Raises:
            LimitReachedError: ``refused``, when waiting is of no use.
        """
        pause_s = _LOOK_EVERY_S
        if refused is not None:
            asked_s = refused.retry_after_s or _USUAL_WAIT_S
            now = asyncio.get_running_loop().time()
            if refused.code != LimitReachedError.default_code or now + asked_s > self._until:
                raise refused
            pause_s = min(asked_s, _LOOK_EVERY_S)
        self._interrupts.set_clock(self._deadline, Cause.DEADLINE)
        with self._interrupts:
            await asyncio.sleep(pause_s)


class Waiting:
    """The lines of all pools of a node."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._lines: dict[str, Line] = {}

    def length(self, pool: str) -> int:
        """How many wait in the queue of a pool on this node."""
        return self._lines[pool].length if pool in self._lines else 0

    async def carry(
        self,
        plan: Plan,
        try_targets: Callable[[Plan], Awaitable[None]],
        interrupts: Interrupts,
        trail: Trail,
    ) -> None:
        """Tries a plan's targets; where the pool rather waits, once there is room, and again when there was none after all.

        Raises:
            LimitReachedError: there was no room in time, or too many wait already.
        """
        hold = self._hold(plan, interrupts)
        if hold is None:
            return await try_targets(plan)
        with hold:
            if await hold.turn():
                plan = await self._again(plan, trail)
            while True:
                refused = None
                if not hold.must_wait(plan):
                    plan.on_admitted = hold.leave
                    try:
                        return await try_targets(plan)
                    except LimitReachedError as error:
                        if trail.attempts:
                            raise
                        refused = error
                await hold.pause(refused)
                plan = await self._again(plan, trail)

    async def _again(self, plan: Plan, trail: Trail) -> Plan:
        """A new plan for the same call: much may have changed while it waited."""
        plan = await self._pipeline.plan(plan.call, trail)
        trail.skipped, trail.fallback = dict(plan.skipped), plan.fallback
        return plan

    def _hold(self, plan: Plan, interrupts: Interrupts) -> Hold | None:
        """A hold for a planned call; None if its pool switches models instead."""
        pool = plan.members[0][0]
        rules = limit_rules(pool)
        if rules is None or rules.action == "switch_model":
            return None
        call, longest = plan.call, pool.config.retry.deadline
        deadline = call.started + (longest if call.deadline_s is None else min(call.deadline_s, longest))
        line = self._lines.setdefault(pool.id, Line())
        return Hold(pool, rules, line, self._pipeline.ranker, interrupts, deadline=deadline)
