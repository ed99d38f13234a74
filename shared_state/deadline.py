"""A deadline that tells a slow answer from a busy event loop.

A loop that was held up runs its timers before it reads its sockets: an answer that had long arrived would count as late. So when
the time is over the loop gets one more look at its sockets before anything is cancelled.
"""

from __future__ import annotations

import asyncio
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
