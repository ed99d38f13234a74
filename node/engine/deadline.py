"""A deadline that moves often and passes rarely: one timer object for many moves."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

_NEVER = math.inf


class Deadline:
    """Calls back once when the time set last has passed.

    Moving it later costs no timer: the one that is pending goes off, sees the new time, and is set again.
    """

    __slots__ = ("_due", "_loop", "_on_passed", "_timer", "_timer_due")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_passed: Callable[[], None]) -> None:
        self._loop = loop
        self._on_passed = on_passed
        self._due = _NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = _NEVER

    def set(self, delay_s: float) -> None:
        """Move the deadline to ``delay_s`` from now."""
        self._due = due = self._loop.time() + delay_s
        if due < self._timer_due:
            if self._timer is not None:
                self._timer.cancel()
            self._arm(due)

    def clear(self) -> None:
        """No deadline until the next one is set."""
        self._due = _NEVER

    def cancel(self) -> None:
        """No deadline any more, and nothing here that holds on to its owner."""
        self._due = _NEVER
        self._on_passed = _nobody
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_due = None, _NEVER

    def _arm(self, due: float) -> None:
        self._timer, self._timer_due = self._loop.call_at(due, self._look), due

    def _look(self) -> None:
        self._timer, self._timer_due = None, _NEVER
        if self._loop.time() >= self._due:
            self._due = _NEVER
            self._on_passed()
        elif self._due is not _NEVER:
            self._arm(self._due)


def _nobody() -> None:
    """Stands for an owner that is gone."""
