"""Two attempts at one answer: whoever has content first gives it, the other is ended and settled.

Each attempt runs in a task of its own, with clocks and a trail of its own; only what is said to the caller goes through the race. An attempt is never
cancelled, only interrupted as if its caller had left: so each reservation is settled once, by the attempt itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from node.call import Reply, Target, Trail
from node.routing.interrupts import Cause, Interrupted, Interrupts
from shared_state.errors import ModelMeshError, ProviderError

#: While attempts run under their own clocks, the request's own stands still.
_FAR_S: Final = 7 * 86_400.0

Body = Callable[[Reply, Interrupts, Trail], Awaitable[None]]


class Runner:
    """One attempt of a race, as the attempt sees its caller.

    Attributes:
        is_started: whether the caller has got a head, from whomever.
    """

    def __init__(self, race: Race, target: Target, mode: str, body: Body) -> None:
        self.target = target
        self.trail = Trail(mode=mode, target=target)
        self._race = race
        self.task = asyncio.get_running_loop().create_task(self._run(body))
        self._interrupts = Interrupts(self.task)

    async def _run(self, body: Body) -> None:
        try:
            await body(self, self._interrupts, self.trail)
        finally:
            self._interrupts.close()

    def stop(self) -> None:
        """Ends it, wherever it is; it settles."""
        self._interrupts.client_left()

    @property
    def error(self) -> BaseException | None:
        """What it has ended with."""
        return None if self.task.cancelled() else self.task.exception()

    @property
    def is_started(self) -> bool:
        return self._race.reply.is_started

    @is_started.setter
    def is_started(self, value: bool) -> None:
        raise AttributeError("only the caller's own end knows")

    async def whole(self, status: int, content_type: bytes, body: bytes, trail: Trail) -> None:
        """Sends a complete answer, if it is the first."""
        self._race.claim(self)
        await self._race.reply.whole(status, content_type, body, self._race.trail)
        self._race.is_over = True

    async def begin(self, trail: Trail, content_type: bytes = b"") -> None:
        """Sends the head of a stream; before any content it is there to comfort the caller, and nobody's."""
        if self.trail.first_content:
            self._race.claim(self)
        elif self._race.winner is not None:
            return
        if not self._race.reply.is_started:
            await self._race.reply.begin(self._race.trail, content_type)

    async def part(self, data: bytes) -> None:
        """Sends a piece of the stream, if it is content of the first to have any."""
        if self.trail.first_content:
            self._race.claim(self)
        elif self._race.winner is not None:
            return
        await self._race.reply.part(data)

    async def end(self) -> None:
        """Ends the stream."""
        self._race.claim(self)
        await self._race.reply.end()
        self._race.is_over = True

    async def break_off(self, error: ModelMeshError) -> None:
        """Ends a stream that has begun with an error event."""
        self._race.claim(self)
        await self._race.reply.break_off(error)
        self._race.is_over = True


class Race:
    """The answer to one request, for which at most two attempts run.

    Attributes:
        winner: the attempt that had content first.
        is_over: whether the caller has the whole answer.
    """

    def __init__(self, reply: Reply, trail: Trail, interrupts: Interrupts) -> None:
        self.reply = reply
        self.trail = trail
        self.winner: Runner | None = None
        self.is_over = False
        self.runners: list[Runner] = []
        self.interrupts = interrupts

    @property
    def is_open(self) -> bool:
        """Whether the first attempt still runs and nobody has had content."""
        return self.winner is None and not self.runners[0].task.done()

    def enter(self, target: Target, mode: str, body: Body) -> Runner:
        """Starts an attempt."""
        runner = Runner(self, target, mode, body)
        self.runners.append(runner)
        return runner

    def claim(self, runner: Runner) -> None:
        """The answer is this attempt's from now on.

        Raises:
            Interrupted: it is another's already.
        """
        if self.winner is None:
            self.winner = runner
            self._take_over(runner)
            for other in self.runners:
                if other is not runner:
                    other.stop()
        elif self.winner is not runner:
            raise Interrupted(Cause.GONE)

    def _take_over(self, runner: Runner) -> None:
        self.trail.target, self.trail.mode = runner.target, runner.trail.mode
        self.trail.first_content = runner.trail.first_content

    async def run(self, delay_s: float, second: Callable[[Race], Awaitable[None]]) -> None:
        """Carries the race to its end.

        Args:
            second: enters another attempt, if it can; called when the first has had no content for so long.

        Raises:
            ProviderError: nobody has had any content; the error of the first.
            Interrupted: the caller left, or the deadline passed.
        """
        try:
            self.interrupts.set_clock(asyncio.get_running_loop().time() + _FAR_S, Cause.TOTAL)
            await self._until_done(delay_s)
            if self.is_open:
                await self._ask_second(second)
                self.interrupts.set_clock(asyncio.get_running_loop().time() + _FAR_S, Cause.TOTAL)
            await self._until_done(None)
        except Interrupted:
            if not self.is_over:  # a caller who has the whole answer may leave
                raise
        finally:
            await self._end()
        self._judge()

    async def _ask_second(self, second: Callable[[Race], Awaitable[None]]) -> None:
        try:
            await second(self)
        except Interrupted as interrupted:
            # The deadline is that of the first content: whoever has had it meanwhile goes on.
            if interrupted.cause is Cause.GONE or self.is_open:
                raise

    async def _until_done(self, timeout_s: float | None) -> None:
        with self.interrupts:
            await asyncio.wait([runner.task for runner in self.runners], timeout=timeout_s)

    async def _end(self) -> None:
        """Nobody is left running, whatever has happened here; what they have found belongs to the request."""
        for runner in self.runners:
            if not runner.task.done():
                runner.stop()
        await asyncio.wait([runner.task for runner in self.runners])
        for runner in self.runners:
            runner.error  # noqa: B018  (seen, so that the loop does not report it)
            self.trail.may_be_billed |= runner.trail.may_be_billed
        if self.winner is not None:
            own = self.winner.trail
            self.trail.tokens_in, self.trail.tokens_out = own.tokens_in, own.tokens_out
            self.trail.outcome = own.outcome

    def _judge(self) -> None:
        first = (self.winner or self.runners[0]).error
        if first is not None:
            raise first

    def other_failures(self) -> list[tuple[Target, ProviderError]]:
        """Where the second attempt failed, and how."""
        return [
            (runner.target, runner.error)
            for runner in self.runners[1:]
            if isinstance(runner.error, ProviderError)
        ]
