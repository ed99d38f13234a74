"""What may end a request's work from outside: one of its clocks, or the caller leaving.

One timer a request serves all clocks: moving a clock only writes a number, and the timer looks when it fires.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from types import TracebackType


class Cause(StrEnum):
    """Why the work was ended."""

    CONNECT = "connect"
    FIRST_TOKEN = "first_token"
    IDLE = "idle"
    TOTAL = "total"
    DEADLINE = "deadline"
    GONE = "client_disconnected"


class Interrupted(Exception):
    """The work was ended from outside."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.value)
        self.cause = cause


class Interrupts:
    """Ends the awaits of one task within ``with interrupts:`` blocks by raising ``Interrupted``.

    Outside such a block nothing is cancelled: cleaning up is never interrupted, and a caller who left meanwhile is noticed at the next block.

    Attributes:
        loop: of the task, for whoever needs its time.
        gone: whether the caller has left.
    """

    __slots__ = (
        "_armed",
        "_cancelling",
        "_cause",
        "_due",
        "_due_cause",
        "_handle",
        "loop",
        "_task",
        "_timer_at",
        "gone",
    )

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task
        self.loop = task.get_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._due = 0.0
        self._due_cause = Cause.TOTAL
        self._armed = False
        self._cancelling = 0
        self._cause: Cause | None = None
        self.gone = False

    def set_clock(self, due: float, cause: Cause) -> None:
        """Sets the one clock that runs now; ``due`` is loop time."""
        self._due, self._due_cause = due, cause
        if self._handle is None or due < self._timer_at:
            if self._handle is not None:
                self._handle.cancel()
            self._start_timer(due)

    def client_left(self) -> None:
        """The caller is gone: ends the work."""
        self.gone = True
        self._interrupt(Cause.GONE)

    def close(self) -> None:
        """Stops the timer."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def __enter__(self) -> Interrupts:
        if self.gone:
            raise Interrupted(Cause.GONE)
        self._armed = True
        self._cause = None
        self._cancelling = self._task.cancelling()
        if self._handle is None and self._due:
            self._start_timer(self._due)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._armed = False
        if self._cause is None:
            return
        cause, self._cause = self._cause, None
        # Our cancellation is used up, whether or not an await has seen it; somebody else's goes on.
        if self._task.uncancel() > self._cancelling and isinstance(error, asyncio.CancelledError):
            return
        raise Interrupted(cause) from None

    def _start_timer(self, at: float) -> None:
        self._timer_at = at
        self._handle = self.loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        if self.loop.time() < self._due:
            self._start_timer(self._due)
            return
        self._handle = None
        self._interrupt(self._due_cause)

    def _interrupt(self, cause: Cause) -> None:
        if self._armed and self._cause is None:
            self._cause = cause
            self._task.cancel()
