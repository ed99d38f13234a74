"""A deadline that tells a slow answer from a busy event loop.

A loop that was held up runs its timers before it reads its sockets: an answer that had long arrived would count as late. So when
the time is over the loop gets one more look at its sockets before anything is cancelled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Final

#: The one more look: enough for the loop to poll, nothing that a caller would notice.
GRACE_S: Final = 0.02


class Deadline:
    """``async with Deadline(seconds)``: raises TimeoutError if the block takes longer, plus the grace."""

    __slots__ = ("_handle", "_limit", "_loop", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._limit = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._limit.__aenter__()
        self._handle = self._loop.call_later(self._seconds, self._look_again)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.cancel()
        await self._limit.__aexit__(kind, error, trace)

    def _look_again(self) -> None:
        self._handle = self._loop.call_later(GRACE_S, self._end)

    def _end(self) -> None:
        self._limit.reschedule(self._loop.time())


class Deadlines:
    """The same for many calls that may all take as long: ``with deadlines.begin():``. One timer serves all of them, and moves seldom."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        #: In the order in which they began, which is that in which their time is over.
        self._calls: deque[Limited] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> Limited:
        """A call begins; its task is cancelled when its time is over."""
        task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        call = Limited(self._calls, task, loop.time() + self._seconds)
        self._calls.append(call)
        if self._timer is None:
            self._timer = loop.call_at(call.due, self._look, loop)
        return call

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        calls = self._calls
        while calls and (calls[0].is_over or calls[0].due <= loop.time()):
            call = calls.popleft()
            if not call.is_over:
                loop.call_later(GRACE_S, call.end)
        self._timer = loop.call_at(calls[0].due, self._look, loop) if calls else None


class Limited:
    """One call and its deadline."""

    __slots__ = ("_calls", "_cancelling", "_is_late", "_task", "due", "is_over")

    def __init__(self, calls: deque[Limited], task: asyncio.Task[object], due: float) -> None:
        self._calls = calls
        self._task = task
        self._cancelling = task.cancelling()
        self._is_late = False
        self.due = due
        self.is_over = False

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_over = True
        while self._calls and self._calls[0].is_over:
            self._calls.popleft()
        if self._is_late and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def end(self) -> None:
        """The time and its grace are over."""
        if not self.is_over:
            self._is_late = True
            self._task.cancel()
