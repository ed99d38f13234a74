"""While a caller waits for the first content: our head after a while, then signs of life, so that nobody in between gives up."""

from __future__ import annotations

import asyncio
from typing import Final

from node.call import Reply, Trail, Voice

#: How long our own head waits for the provider's first content, so that an early failure keeps a true status.
HOLD_HEAD_S: Final = 3.0
HEARTBEAT_S: Final = 10.0
_BEATS: Final = {
    Voice.OPENAI: b": waiting\n\n",
    Voice.ANTHROPIC: b'event: ping\ndata: {"type":"ping"}\n\n',
}


class Comfort:
    """Starts by itself after ``HOLD_HEAD_S``; a stream that is quicker pays for one timer only.

    Args:
        voice: of the stream that the signs become a part of.
    """

    __slots__ = ("_beat", "_handle", "_reply", "_task", "_trail")

    def __init__(self, reply: Reply, trail: Trail, voice: Voice = Voice.OPENAI) -> None:
        self._beat = _BEATS[voice]
        self._reply = reply
        self._trail = trail
        self._task: asyncio.Task[None] | None = None
        self._handle = asyncio.get_running_loop().call_later(HOLD_HEAD_S, self._start)

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        if not self._reply.is_started:  # an attempt before this one may have
            await self._reply.begin(self._trail)
        while True:
            await self._reply.part(self._beat)
            await asyncio.sleep(HEARTBEAT_S)

    async def stop(self) -> None:
        """Ends the signs; returns when none is being sent any more."""
        self._handle.cancel()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()
